# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on holds: what a guard has stopped, until a person lets it through, once."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from acme_milter.store.schema import hold as table

SLACK = 10
"""A release still counts when the thing has grown by one in so many since it was shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """``name`` says what kind of guard and for what (``leavers:ad``); ``reason`` is for people; ``size`` is a number
    of mailboxes or certificates, 0 where none was given. ``released_at`` is set until the guard comes by again.
    """

    name: str
    since: datetime
    reason: str
    size: int
    released_at: datetime | None


def ask(connection: sa.Connection, name: str, reason: str, now: datetime, size: int = 0) -> bool:
    """May this happen? True when a person released it: go on, the hold is gone. False: it waits, for all to see.

    A release is for what was shown. A thing that has grown since by more than a tenth is stopped anew: 30 people who
    left must not let through a source that has lost everybody in the meantime.
    """
    known = get(connection, name)
    if known is not None and known.released_at is not None and size <= known.size + known.size // SLACK:
        clear(connection, name)
        return True
    if known is None:
        connection.execute(table.insert().values(name=name, since=now, reason=reason, size=size, released_at=None))
    else:
        connection.execute(
            table.update().where(table.c.name == name).values(reason=reason, size=size, released_at=None)
        )
    return False


def get(connection: sa.Connection, name: str) -> Hold | None:
    row = connection.execute(sa.select(table).where(table.c.name == name)).first()
    return None if row is None else Hold(**row._asdict())


def clear(connection: sa.Connection, name: str) -> None:
    """What it was about is over."""
    connection.execute(table.delete().where(table.c.name == name))


def waiting(connection: sa.Connection) -> list[Hold]:
    """Every hold, the oldest first; also those that are released and whose guard has not come by yet."""
    return [Hold(**row._asdict()) for row in connection.execute(sa.select(table).order_by(table.c.since, table.c.name))]


def release(connection: sa.Connection, name: str, now: datetime) -> bool:
    """Let it through at the guard's next look. False: there is no such hold."""
    released = connection.execute(table.update().where(table.c.name == name).values(released_at=now))
    return released.rowcount == 1
