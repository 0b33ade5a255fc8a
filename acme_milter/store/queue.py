# SPDX-License-Identifier: GPL-3.0-or-later
"""What the scheduler takes next. Asked many times a second: each query looks at what is due, and at nothing else."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.enrollment.model import Cause, State
from acme_milter.store.budgets import WINDOW
from acme_milter.store.schema import enrollment as table

HEAD_START = {
    Cause.ASKED: timedelta(0),
    Cause.URGENT: timedelta(minutes=15),
    Cause.BULK: timedelta(minutes=30),
    Cause.JOINER: timedelta(minutes=60),
    Cause.RENEWAL: timedelta(days=3),  # it has weeks left, and somebody waits for each of the others
}
"""How far each cause stands behind one that a person waits for. A place in the queue and no rank: nobody starves."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A planned enrollment that may begin."""

    id: str
    cause: Cause
    since: datetime
    address: str


_FREE = sa.or_(table.c.lease_until.is_(None), table.c.lease_until < sa.bindparam("now"))
_STEPS = (
    sa.select(table.c.id, table.c.authority)
    .where(
        sa.text("enrollment.state <> 'planned'"),  # the words of the partial index ix_enrollment_due
        table.c.next_attempt_at <= sa.bindparam("now"),
        table.c.authority.not_in(sa.bindparam("resting", expanding=True)),
        _FREE,
    )
    .order_by(table.c.next_attempt_at)
    .limit(sa.bindparam("limit"))
)


def _first_of(cause: Cause) -> sa.Select[tuple[str, str, datetime, str]]:
    first = (
        sa.select(table.c.id, table.c.cause, table.c.next_attempt_at, table.c.address)
        .where(
            table.c.authority == sa.bindparam("authority"),
            table.c.state == State.PLANNED.value,
            table.c.cause == cause.value,
            table.c.next_attempt_at <= sa.bindparam("now"),
            _FREE,
        )
        .order_by(table.c.next_attempt_at)
        .limit(sa.bindparam("limit"))
        .subquery()
    )
    return sa.select(first.c.id, first.c.cause, first.c.next_attempt_at, first.c.address)


_WAITING = sa.union_all(*(_first_of(cause) for cause in HEAD_START))


def steps(connection: sa.Connection, *, now: datetime, limit: int, resting: Collection[str]) -> list[tuple[str, str]]:
    """(id, authority) of enrollments that have begun, are due and not leased, the longest waiting first.

    Those with a ``resting`` authority are passed over: they must not keep others out of the ``limit``.
    """
    asked = {"now": now, "resting": list(resting), "limit": limit}
    return [(row.id, row.authority) for row in connection.execute(_STEPS, asked)]


def waiting(connection: sa.Connection, authority: str, *, now: datetime, limit: int) -> list[Waiting]:
    """Planned enrollments of the authority in the order in which they may begin, ``limit`` of each cause at most."""
    rows = connection.execute(_WAITING, {"authority": authority, "now": now, "limit": limit})
    found = [Waiting(row.id, Cause(row.cause), row.next_attempt_at, row.address) for row in rows]
    return sorted(found, key=lambda one: one.since + HEAD_START[one.cause])


_ADDRESSES = (
    sa.select(table.c.address)
    .where(
        table.c.authority == sa.bindparam("authority"),
        table.c.state == State.PLANNED.value,
        table.c.cause == sa.bindparam("cause"),
        table.c.next_attempt_at <= sa.bindparam("now"),
    )
    .order_by(table.c.next_attempt_at)
    .limit(sa.bindparam("limit"))
)


def newcomer_first(connection: sa.Connection, authority: str, *, opened_at: datetime, now: datetime) -> bool:
    """Whether a joiner without an order stands before a renewal that was opened then, by HEAD_START.

    Begun or not, due or within the hour: whoever was put off for want of room is away for minutes, and the room that
    comes free meanwhile is theirs.
    """
    ahead = opened_at + HEAD_START[Cause.RENEWAL] - HEAD_START[Cause.JOINER]
    query = (
        sa.select(table.c.id)
        .where(
            table.c.authority == authority,
            table.c.state.in_([State.PLANNED.value, State.ORDERING.value]),
            table.c.cause == Cause.JOINER.value,
            table.c.next_attempt_at <= now + WINDOW,
            table.c.order_url.is_(None),
            table.c.opened_at < ahead,
            sa.or_(table.c.counted_at.is_(None), table.c.counted_at <= now - WINDOW),
        )
        .limit(1)
    )
    return connection.execute(query).first() is not None


def waiting_addresses(
    connection: sa.Connection, authority: str, cause: Cause, *, now: datetime, limit: int
) -> list[str]:
    """The mailboxes that may begin with an authority for one cause, leased or not, the longest waiting first."""
    asked = {"authority": authority, "cause": cause.value, "now": now, "limit": limit}
    return list(connection.execute(_ADDRESSES, asked).scalars())


def planned_errors(
    connection: sa.Connection, authorities: Collection[str], beginning: str, limit: int
) -> list[tuple[str, int]]:
    """What planned enrollments wait for, where its text begins so: each text once, with how many; the most first."""
    number = sa.func.count()
    query = (
        sa.select(table.c.last_error, number)
        .where(
            table.c.authority.in_(list(authorities)),
            table.c.state == State.PLANNED.value,
            table.c.last_error.startswith(beginning, autoescape=True),
        )
        .group_by(table.c.last_error)
        .order_by(number.desc(), table.c.last_error)
        .limit(limit)
    )
    return [(text, count) for text, count in connection.execute(query)]


def orphans(connection: sa.Connection, configured: Collection[str], now: datetime, limit: int) -> list[tuple[str, str]]:
    """(id, authority) of planned enrollments whose authority is not configured any more."""
    query = (
        sa.select(table.c.id, table.c.authority)
        .where(
            table.c.authority.not_in(list(configured)),
            table.c.state == State.PLANNED.value,
            table.c.next_attempt_at <= now,
            sa.or_(table.c.lease_until.is_(None), table.c.lease_until < now),
        )
        .limit(limit)
    )
    return [(row.id, row.authority) for row in connection.execute(query)]


def next_orphan(connection: sa.Connection, configured: Collection[str]) -> datetime | None:
    """When the next planned enrollment is due whose authority is not configured any more; None: there is none."""
    query = sa.select(sa.func.min(table.c.next_attempt_at)).where(
        table.c.authority.not_in(list(configured)), table.c.state == State.PLANNED.value
    )
    return connection.execute(query).scalar()


def extend(connection: sa.Connection, enrollment_id: str, *, owner: str, until: datetime) -> None:
    """Keep a lease that is still ours for longer."""
    connection.execute(
        table.update().where(table.c.id == enrollment_id, table.c.lease_owner == owner).values(lease_until=until)
    )
