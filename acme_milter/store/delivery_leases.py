# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on deliveries whose lease ended before their worker did, so that two have been at work on one place.

A lease that another worker was given while it had its predecessor's name on it has been taken over: the predecessor
may still be at work. What it brings late lies where what others have brought is believed to be.
"""

from datetime import datetime

import sqlalchemy as sa

from acme_milter.store.schema import certificate
from acme_milter.store.schema import delivery as table

AGAIN = "+again"
"""Behind the name of a lease: what it brings has to be brought once more. Nobody is given the job meanwhile."""


def renew(connection: sa.Connection, delivery_id: str, *, owner: str, until: datetime) -> bool:
    """Have the lease for longer, for the last step of a delivery. False: it is another's, or no more."""
    ours = sa.and_(table.c.id == delivery_id, table.c.lease_owner == owner)
    return connection.execute(table.update().where(ours).values(lease_until=until)).rowcount == 1


def bring_again(connection: sa.Connection, delivery_id: str, now: datetime, *, owner: str, why: str) -> bool:
    """`owner` has brought it although its lease had ended: have it brought once more, when whoever is at it is done.

    So are newer certificates of the mailbox at the same target, whose place an older one may have taken. False: there
    is nothing that would be brought.
    """
    other, mine, theirs = table.alias("other"), certificate.alias("mine"), certificate.alias("theirs")
    rows = connection.execute(
        sa.select(other.c.id, other.c.lease_owner, other.c.done_at, other.c.outcome)
        .select_from(
            table.join(mine, mine.c.id == table.c.certificate_id)
            .join(other, sa.and_(other.c.address == table.c.address, other.c.target == table.c.target))
            .join(theirs, theirs.c.id == other.c.certificate_id)
        )
        .where(
            table.c.id == delivery_id,
            sa.tuple_(theirs.c.stored_at, theirs.c.id) >= sa.tuple_(mine.c.stored_at, mine.c.id),
            sa.or_(other.c.done_at.is_(None), other.c.outcome.is_not(None)),
        )
    ).all()
    due = {"next_attempt_at": now, "done_at": None, "outcome": None, "last_error": why}
    for row in rows:
        if row.lease_owner is not None and row.lease_owner.removesuffix(AGAIN) != owner and row.done_at is None:
            values: dict[str, object] = {"lease_owner": row.lease_owner.removesuffix(AGAIN) + AGAIN}
        else:
            # Still with a name on it: whoever is given it now knows that there may be others.
            values = {**due, "lease_owner": owner, "lease_until": None}
        connection.execute(table.update().where(table.c.id == row.id).values(**values))
    return bool(rows)


def may_overlap(connection: sa.Connection, certificate_id: str, now: datetime) -> bool:
    """Whether somebody whose lease was taken over may still be at work on one of the certificate's deliveries."""
    query = sa.select(table.c.id).where(
        table.c.certificate_id == certificate_id, table.c.done_at.is_not(None), table.c.lease_until > now
    )
    return connection.execute(query.limit(1)).first() is not None


def end_overlaps(connection: sa.Connection, now: datetime) -> set[str]:
    """Those that have been waited for long enough; returns their certificates' ids. It reads every row: seldom."""
    past = sa.and_(table.c.done_at.is_not(None), table.c.lease_until <= now)
    ids = set(connection.execute(sa.select(table.c.certificate_id).where(past)).scalars())
    if ids:
        connection.execute(table.update().where(past).values(lease_until=None))
    return ids
