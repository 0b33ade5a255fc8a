# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on pauses: authorities that rest, because they asked for it (RFC 8555 §6.6) or because a person did."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.store.schema import authority_pause as table

LONGEST = timedelta(hours=25)
"""No authority's Retry-After is taken for more than a day: a pause that has longer to go is a clock's mistake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """``until`` None: until a person resumes it; open orders go on then, only nothing new is begun."""

    authority: str
    reason: str
    since: datetime
    until: datetime | None

    @property
    def by_person(self) -> bool:
        return self.until is None

    def holds(self, now: datetime) -> bool:
        """Whether it is still in force."""
        return self.until is None or now < self.until <= now + LONGEST


def pause(connection: sa.Connection, authority: str, reason: str, now: datetime, until: datetime | None) -> None:
    """Let an authority rest. The longer pause wins: a Retry-After does not end what a person has begun."""
    known = get(connection, authority)
    if known is not None and until is not None and known.holds(now) and (known.until is None or known.until >= until):
        return
    connection.execute(table.delete().where(table.c.authority == authority))
    connection.execute(table.insert().values(authority=authority, reason=reason, since=now, until=until))


def get(connection: sa.Connection, authority: str) -> Pause | None:
    row = connection.execute(sa.select(table).where(table.c.authority == authority)).first()
    return None if row is None else Pause(**row._asdict())


def in_force(connection: sa.Connection, now: datetime) -> dict[str, Pause]:
    """By authority, those that have not ended."""
    found = (Pause(**row._asdict()) for row in connection.execute(sa.select(table)))
    return {pause.authority: pause for pause in found if pause.holds(now)}


def resume(connection: sa.Connection, authority: str) -> bool:
    """End a pause. False: there was none."""
    return connection.execute(table.delete().where(table.c.authority == authority)).rowcount == 1


def any_ended(connection: sa.Connection, now: datetime) -> bool:
    """Whether `forget_ended` would find anything: asked first, since it writes."""
    return any(not Pause(**row._asdict()).holds(now) for row in connection.execute(sa.select(table)))


def forget_ended(connection: sa.Connection, now: datetime) -> list[str]:
    """Remove what has ended; the authorities that this call removed a pause of."""
    over = [
        pause.authority
        for pause in (Pause(**row._asdict()) for row in connection.execute(sa.select(table)))
        if not pause.holds(now)
    ]
    return [authority for authority in over if resume(connection, authority)]
