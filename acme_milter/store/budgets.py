# SPDX-License-Identifier: GPL-3.0-or-later
"""What has been used of an authority: counted from the enrollments themselves, so it survives every restart (T32)."""

from collections import Counter
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.enrollment.model import OPEN_STATES, Cause, State
from acme_milter.store.schema import enrollment as table

WINDOW = timedelta(hours=1)
"""Budgets are of any sixty minutes, not of the hours of a clock."""

NEAR = timedelta(minutes=5)
"""What is dated later than that was dated by a clock that was wrong, and uses up nothing of today."""

_BEGUN = (
    sa.select(table.c.cause, sa.func.count().label("number"))
    .where(
        table.c.authority == sa.bindparam("authority"),
        table.c.counted_at > sa.bindparam("since"),
        table.c.counted_at <= sa.bindparam("until"),
    )
    .group_by(table.c.cause)
)
# Counted here and not there: grouping leads SQLite to another index, through the whole table.
_BEGINNING = sa.select(table.c.authority, table.c.cause).where(
    sa.text("lease_until IS NOT NULL"),
    table.c.lease_until >= sa.bindparam("now"),
    table.c.state == State.PLANNED.value,
)
_MOVING = sa.select(sa.func.count()).where(
    table.c.authority == sa.bindparam("authority"),
    table.c.state.in_([state.value for state in sorted(OPEN_STATES - {State.PLANNED})]),
)


def begun(connection: sa.Connection, authority: str, now: datetime) -> dict[Cause, int]:
    """How many orders were begun, asked for again or placed in the last sixty minutes.

    One that was begun in an outage counts once more when it is placed: only then does the authority count it.
    """
    rows = connection.execute(_BEGUN, {"authority": authority, "since": now - WINDOW, "until": now + NEAR})
    return {Cause(row.cause): row.number for row in rows}


def replies(connection: sa.Connection, authority: str, now: datetime) -> int:
    """How many replies those orders take, if a challenge mail comes for each of their addresses."""
    postgresql = connection.dialect.name == "postgresql"
    aliases = sa.func.json_array_length(sa.cast(table.c.aliases, sa.JSON) if postgresql else table.c.aliases)
    query = sa.select(sa.func.count() + sa.func.coalesce(sa.func.sum(aliases), 0)).where(
        table.c.authority == authority, table.c.counted_at > now - WINDOW, table.c.counted_at <= now + NEAR
    )
    return int(connection.execute(query).scalar_one())


def beginning(connection: sa.Connection, now: datetime) -> Mapping[str, Mapping[Cause, int]]:
    """How many begin at this moment, on any host, by authority: they are leased, their keys are being made."""
    found: dict[str, Counter[Cause]] = {}
    for row in connection.execute(_BEGINNING, {"now": now}):
        found.setdefault(row.authority, Counter())[Cause(row.cause)] += 1
    return found


def beginning_addresses(connection: sa.Connection, authority: str, now: datetime) -> list[str]:
    """The mailboxes of those that begin at this moment with an authority."""
    query = sa.select(table.c.address).where(
        sa.text("lease_until IS NOT NULL"),
        table.c.lease_until >= now,
        table.c.state == State.PLANNED.value,
        table.c.authority == authority,
    )
    return list(connection.execute(query).scalars())


def moving(connection: sa.Connection, authority: str) -> int:
    """How many have begun and not ended."""
    return int(connection.execute(_MOVING, {"authority": authority}).scalar_one())


def opened(connection: sa.Connection, authority: str, causes: Collection[Cause], now: datetime) -> int:
    """How many were opened for one of these causes in the last sixty minutes, whatever became of them."""
    query = sa.select(sa.func.count()).where(
        table.c.authority == authority,
        table.c.cause.in_([cause.value for cause in sorted(causes)]),
        table.c.opened_at > now - WINDOW,
        table.c.opened_at <= now + NEAR,
    )
    return int(connection.execute(query).scalar_one())


def failed(connection: sa.Connection, authority: str, since: datetime) -> int:
    """How many orders failed since then, with or without a successor."""
    query = sa.select(sa.func.count()).where(
        table.c.authority == authority, table.c.state == State.FAILED.value, table.c.state_since > since
    )
    return int(connection.execute(query).scalar_one())


def take_turns(connection: sa.Connection, authority: str) -> None:
    """Until this transaction ends, no other one passes here for the same authority: what it counts stays true.

    SQLite lets one writer in at a time anyway.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(8823, hashtext(:name))"), {"name": authority})
