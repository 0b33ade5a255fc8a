# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on joiners: mailboxes that came after the first day and have had no enrollment yet."""

from datetime import datetime

import sqlalchemy as sa

from acme_milter.enrollment.model import OPEN_STATES, State
from acme_milter.store.schema import enrollment, mailbox

_IN_USE = [state.value for state in OPEN_STATES | {State.ACTIVE}]
_NEVER_ENROLLED = ~(
    sa.select(sa.literal(1))
    .where(
        enrollment.c.address == mailbox.c.address,
        enrollment.c.principal == mailbox.c.principal,
        enrollment.c.state != State.CANCELLED.value,
        # Who had left and is there again is seen for the first time again; what they had before is out of use.
        sa.or_(enrollment.c.opened_at >= mailbox.c.first_seen_at, enrollment.c.state.in_(_IN_USE)),
    )
    .exists()
)


def unserved(connection: sa.Connection, *, came_as: str, since: datetime | None = None) -> list[str]:
    """Addresses of present joiners for whose person nothing was ordered since they came, or only what was cancelled.

    ``since``: only those first seen since then, which is a short look; without it every joiner is looked at.
    """
    query = sa.select(mailbox.c.address).where(
        mailbox.c.came_as == came_as, mailbox.c.missing_since.is_(None), mailbox.c.left_at.is_(None), _NEVER_ENROLLED
    )
    if since is not None:
        query = query.where(mailbox.c.first_seen_at >= since)
    return list(connection.execute(query.order_by(mailbox.c.first_seen_at, mailbox.c.address)).scalars())


def is_unserved(connection: sa.Connection, address: str, came_as: str) -> bool:
    """Whether `unserved` would still name it."""
    query = sa.select(sa.literal(1)).where(
        mailbox.c.address == address,
        mailbox.c.came_as == came_as,
        mailbox.c.missing_since.is_(None),
        mailbox.c.left_at.is_(None),
        _NEVER_ENROLLED,
    )
    return connection.execute(query).first() is not None
