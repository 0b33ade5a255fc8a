# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on deliveries whose lease ended before their worker did, so that two have been at work on one place.

A lease that another worker was given while it had its predecessor's name on it has been taken over: the predecessor
may still be at work. What it brings late lies where what others have brought is believed to be.
"""

from collections.abc import Mapping
from datetime import datetime

import sqlalchemy as sa

from acme_milter.store.delivery_rivals import BESIDE, MY_AGE, OTHER, THEIR_AGE
from acme_milter.store.schema import delivery as table

AGAIN = "+again"
"""Behind the name of a lease: what comes of it does not count, and the job is done once more, as it is wanted by then.
Nobody is given it meanwhile.
"""


def renew(connection: sa.Connection, delivery_id: str, *, owner: str, until: datetime) -> bool:
    """Have the lease for longer, for the last step of a delivery. False: it is another's, or no more."""
    ours = sa.and_(table.c.id == delivery_id, table.c.lease_owner == owner)
    return connection.execute(table.update().where(ours).values(lease_until=until)).rowcount == 1


def disturbed(lease_owner: str | None, now: datetime, *, done: bool) -> dict[str, object]:
    """The values of a lease on a row that is to become another job. Whoever has it keeps it, and then it ends."""
    if not done and lease_owner is not None:
        return {"lease_owner": lease_owner.removesuffix(AGAIN) + AGAIN}
    # It is over, unless there may be somebody else at work: then a name stays, as `claim` has it.
    return {"lease_owner": sa.case((table.c.lease_until > now, "another"), else_=None), "lease_until": None}


def end(
    connection: sa.Connection, delivery_id: str, names: list[str], values: Mapping[str, object], *, withdrawal: bool
) -> bool:
    """Write what came of a job of this kind, whose lease has one of these `names`; False: it is another one by now."""
    kind = table.c.withdraw_why.is_not(None) if withdrawal else table.c.withdraw_why.is_(None)
    ours = sa.and_(table.c.id == delivery_id, table.c.lease_owner.in_(names), kind)
    values = {"lease_owner": None, "lease_until": None, **values}
    return connection.execute(table.update().where(ours).values(**values)).rowcount == 1


def names(owner: str) -> list[str]:
    """How a lease of this owner may be called by now."""
    return [owner, owner + AGAIN]


def let_go(connection: sa.Connection, delivery_id: str, *, owner: str) -> None:
    """Nothing came of it, and the job has changed meanwhile: whoever is given it next does it."""
    ours = sa.and_(table.c.id == delivery_id, table.c.lease_owner.in_(names(owner)))
    connection.execute(table.update().where(ours).values(lease_owner=None, lease_until=None))


def extend(
    connection: sa.Connection, delivery_id: str, *, owner: str, until: datetime, last_error: str | None = None
) -> None:
    """Keep a lease that is still ours for longer; `last_error` tells why, where people should know."""
    ours = sa.and_(table.c.id == delivery_id, table.c.lease_owner.in_(names(owner)))
    told = {} if last_error is None else {"last_error": last_error}
    connection.execute(table.update().where(ours).values(lease_until=until, **told))


def locate(connection: sa.Connection, delivery_id: str, location: str, *, owner: str) -> None:
    """Note where it is about to be put, while the lease is ours."""
    ours = sa.and_(table.c.id == delivery_id, table.c.lease_owner.in_(names(owner)))
    connection.execute(table.update().where(ours).values(location=location))


def release_all(connection: sa.Connection, *, place: str, but: str) -> None:
    """At start: leases of predecessors at this `place` are void, all but those whose owner begins with `but`."""
    theirs = table.c.lease_owner.startswith(place + "#", autoescape=True)
    ours = table.c.lease_owner.startswith(but, autoescape=True)
    connection.execute(table.update().where(theirs, ~ours).values(lease_owner=None, lease_until=None))


def do_again(connection: sa.Connection, delivery_id: str, now: datetime, *, owner: str, why: str) -> bool:
    """`owner` has done it, but its lease had ended, or the job was another one by then: have it done once more, when
    whoever is at it is done, as it is wanted now: brought, or taken back.

    Newer certificates of the mailbox at the same target, whose place may have been taken, are brought once more, too.
    False: there is nothing to do.
    """
    standing = sa.or_(OTHER.c.done_at.is_(None), OTHER.c.outcome.is_not(None))
    rows = connection.execute(
        sa.select(OTHER.c.id, OTHER.c.lease_owner, OTHER.c.done_at, OTHER.c.withdraw_why, OTHER.c.begun_at)
        .select_from(BESIDE)
        .where(
            table.c.id == delivery_id,
            THEIR_AGE >= MY_AGE,
            standing,
            sa.or_(OTHER.c.id == table.c.id, OTHER.c.withdraw_why.is_(None)),
        )
    ).all()
    for row in rows:
        if row.lease_owner is not None and row.lease_owner.removesuffix(AGAIN) != owner and row.done_at is None:
            values: dict[str, object] = {"lease_owner": row.lease_owner.removesuffix(AGAIN) + AGAIN}
        else:
            # Still with a name on it: whoever is given it now knows that there may be others.
            values = {"next_attempt_at": now, "done_at": None, "last_error": why}
            values |= {"lease_owner": owner, "lease_until": None, "begun_at": row.begun_at or now}
            if row.withdraw_why is None or row.done_at is not None:
                values |= {"outcome": None}
            if row.done_at is not None:
                values |= {"attempts": 0}
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
