# SPDX-License-Identifier: GPL-3.0-or-later
"""Which enrollments another authority could still take over: nothing is known of an order, and nobody works on them."""

from datetime import datetime

import sqlalchemy as sa

from acme_milter.enrollment.model import OPEN_STATES, Enrollment
from acme_milter.store import enrollments
from acme_milter.store.schema import enrollment as table

_FREE = sa.or_(table.c.lease_until.is_(None), table.c.lease_until < sa.bindparam("now"))
# Written out, as the partial index ix_enrollment_unplaced has it.
_UNPLACED = sa.text("enrollment.state IN ('planned', 'ordering') AND enrollment.order_url IS NULL")
_PAGE = (
    sa.select(table.c.id)
    .where(table.c.authority == sa.bindparam("with_authority"), _UNPLACED, _FREE, table.c.id > sa.bindparam("after"))
    .order_by(table.c.id)
    .limit(sa.bindparam("limit"))
)
_ONE = sa.select(table.c.id).where(table.c.id == sa.bindparam("wanted"), _UNPLACED, _FREE)


def page(connection: sa.Connection, authority: str, *, after: str, now: datetime, limit: int) -> list[Enrollment]:
    """Some of the authority's, by id, from the first one ``after`` that id."""
    asked = {"with_authority": authority, "after": after, "now": now, "limit": limit}
    ids = list(connection.execute(_PAGE, asked).scalars())
    return [found for found in (enrollments.get(connection, one) for one in ids) if found is not None]


def again(connection: sa.Connection, enrollment_id: str, now: datetime) -> Enrollment | None:
    """The enrollment as it is now, None when it is not movable any more: for the transaction that moves it."""
    row = connection.execute(_ONE, {"wanted": enrollment_id, "now": now}).first()
    return None if row is None else enrollments.get(connection, enrollment_id)


_OPEN = [state.value for state in OPEN_STATES]


def open_with(connection: sa.Connection, address: str, authorities: tuple[str, ...]) -> list[Enrollment]:
    """The open enrollments of the mailbox with any of these authorities."""
    ids = connection.execute(
        sa.select(table.c.id).where(
            table.c.address == address, table.c.authority.in_(authorities), table.c.state.in_(_OPEN)
        )
    ).scalars()
    return [found for found in (enrollments.get(connection, one) for one in list(ids)) if found is not None]
