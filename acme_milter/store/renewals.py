# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on renewals: when each active certificate is due, and how many fall on each day.

A row and its day's count are changed together, in the caller's transaction. Whoever opens a renewal moves its row on,
so that what is due is found by looking at what is due, and at nothing else.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.enrollment.renewal import day_of
from acme_milter.store.schema import certificate, enrollment
from acme_milter.store.schema import renewal as table
from acme_milter.store.schema import renewal_day as days


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """One active certificate's. ``due_at`` is when it is looked at next: once opened, when to open it once more.

    ``window_…`` and ``explanation_url`` are the authority's (RFC 9773); ``ask_at`` is when to ask it again, None:
    never. ``urgent_at``: from then on it does not wait for the background's pace.
    """

    certificate_id: str
    authority: str
    address: str
    due_at: datetime
    urgent_at: datetime
    window_start: datetime | None = None
    window_end: datetime | None = None
    explanation_url: str | None = None
    ask_at: datetime | None = None
    opened_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A renewal that is due, with what its certificate says."""

    certificate_id: str
    authority: str
    address: str
    principal: str
    due_at: datetime
    urgent_at: datetime
    not_before: datetime
    not_after: datetime
    usage: KeyUsageKind = KeyUsageKind.DUAL


_COLUMNS = [table.c[name] for name in Renewal.__dataclass_fields__]
_DUE_COLUMNS = [
    table.c.certificate_id,
    table.c.authority,
    table.c.address,
    certificate.c.principal,
    table.c.due_at,
    table.c.urgent_at,
    certificate.c.not_before,
    certificate.c.not_after,
    certificate.c.usage,
]
# In these very words: the partial index ix_enrollment_active is of use only to who asks in its own.
_ACTIVE = sa.text("enrollment.state = 'active'")
_WITH_CERTIFICATE = table.join(certificate, certificate.c.id == table.c.certificate_id)


def _unindexed(column: sa.Column[str]) -> sa.ColumnElement[str]:
    """The same text, but no reason to take an index that begins with it and leads through a whole authority."""
    return column + ""


def plan(connection: sa.Connection, renewal: Renewal) -> None:
    """Insert the row, or put it in the place of an older one of the same certificate."""
    forget(connection, renewal.certificate_id)
    values = {name: getattr(renewal, name) for name in Renewal.__dataclass_fields__}
    connection.execute(table.insert().values(day=day_of(renewal.due_at), **values))
    _count(connection, renewal.authority, day_of(renewal.due_at), 1)


def forget(connection: sa.Connection, certificate_id: str) -> bool:
    """The certificate is not renewed any more: superseded, revoked. False: it had no row."""
    row = connection.execute(
        sa.select(table.c.authority, table.c.day).where(table.c.certificate_id == certificate_id)
    ).first()
    if row is None:
        return False
    connection.execute(table.delete().where(table.c.certificate_id == certificate_id))
    _count(connection, row.authority, row.day, -1)
    return True


def get(connection: sa.Connection, certificate_id: str) -> Renewal | None:
    row = connection.execute(sa.select(*_COLUMNS).where(table.c.certificate_id == certificate_id)).first()
    return None if row is None else Renewal(**row._asdict())


def of_mailbox(connection: sa.Connection, address: str) -> list[Renewal]:
    """The rows of all its active certificates, the soonest due first."""
    rows = connection.execute(sa.select(*_COLUMNS).where(table.c.address == address).order_by(table.c.due_at))
    return [Renewal(**row._asdict()) for row in rows]


def move(connection: sa.Connection, certificate_id: str, due_at: datetime, **changes: object) -> None:
    """Have it due at another moment; ``changes`` are further columns. Nothing happens when it has no row any more."""
    row = connection.execute(
        sa.select(table.c.authority, table.c.day).where(table.c.certificate_id == certificate_id)
    ).first()
    if row is None:
        return
    day = day_of(due_at)
    connection.execute(
        table.update().where(table.c.certificate_id == certificate_id).values(due_at=due_at, day=day, **changes)
    )
    if day != row.day:
        _count(connection, row.authority, row.day, -1)
        _count(connection, row.authority, day, 1)


def due(connection: sa.Connection, authority: str, now: datetime, limit: int) -> list[Due]:
    """What is due with the authority, the longest due first."""
    return _due(connection, table.c.due_at <= now, authority, table.c.due_at, limit)


def urgent(connection: sa.Connection, authority: str, now: datetime, limit: int) -> list[Due]:
    """What is due and cannot wait, the most urgent first."""
    condition = sa.and_(table.c.urgent_at <= now, table.c.due_at <= now)
    return _due(connection, condition, authority, table.c.urgent_at, limit)


def _due(
    connection: sa.Connection,
    condition: sa.ColumnElement[bool],
    authority: str,
    order: sa.ColumnElement[Any],
    limit: int,
) -> list[Due]:
    rows = connection.execute(
        sa.select(*_DUE_COLUMNS)
        .select_from(_WITH_CERTIFICATE)
        .where(table.c.authority == authority, condition)
        .order_by(order)
        .limit(limit)
    )
    return [Due(**(row._asdict() | {"usage": KeyUsageKind(row.usage)})) for row in rows]


def number_due(connection: sa.Connection, authority: str, after: datetime, until: datetime) -> int:
    """How many became due in between, ``until`` included."""
    return _number(connection, authority, table.c.due_at > after, table.c.due_at <= until)


def number_urgent(connection: sa.Connection, authority: str, now: datetime) -> int:
    """How many are due and cannot wait."""
    return _number(connection, authority, table.c.urgent_at <= now, table.c.due_at <= now)


def _number(connection: sa.Connection, authority: str, *conditions: sa.ColumnElement[bool]) -> int:
    query = sa.select(sa.func.count()).select_from(table).where(table.c.authority == authority, *conditions)
    return int(connection.execute(query).scalar_one())


def by_day(connection: sa.Connection, authority: str, first: int, last: int) -> dict[int, int]:
    """Planned renewals of each day that has any, from ``first`` to ``last``, in days since 1970."""
    rows = connection.execute(
        sa.select(days.c.day, days.c.planned).where(days.c.authority == authority, days.c.day.between(first, last))
    )
    return {row.day: row.planned for row in rows}


def number_active(connection: sa.Connection, authority: str) -> int:
    """Certificates of the authority that are to be renewed some day: the sum of all days, so a short look."""
    query = sa.select(sa.func.coalesce(sa.func.sum(days.c.planned), 0)).where(days.c.authority == authority)
    return int(connection.execute(query).scalar_one())


def sample(connection: sa.Connection, authority: str, limit: int) -> list[tuple[str, datetime, datetime]]:
    """(address, not_before, not_after) of some certificates, as good as random: their ids are."""
    rows = connection.execute(
        sa.select(table.c.address, certificate.c.not_before, certificate.c.not_after)
        .select_from(_WITH_CERTIFICATE)
        .where(_unindexed(table.c.authority) == authority)
        .order_by(table.c.certificate_id)
        .limit(limit)
    )
    return [(row.address, row.not_before, row.not_after) for row in rows]


def to_ask(connection: sa.Connection, authority: str, now: datetime, limit: int) -> list[Renewal]:
    """Those whose authority is to be asked for its window now, the longest waiting first (RFC 9773 §4.3)."""
    rows = connection.execute(
        sa.select(*_COLUMNS)
        .where(table.c.authority == authority, table.c.ask_at <= now)
        .order_by(table.c.ask_at)
        .limit(limit)
    )
    return [Renewal(**row._asdict()) for row in rows]


def call_back(connection: sa.Connection, authority: str, now: datetime, future: datetime, limit: int) -> int:
    """Have those that were opened later than in ``future`` be due now; returns how many, ``limit`` at most.

    No clock that is right has dated them. Walks through all of the authority's.
    """
    wanted = (
        sa.select(table.c.certificate_id).where(table.c.authority == authority, table.c.opened_at > future).limit(limit)
    )
    found = list(connection.execute(wanted).scalars())
    for certificate_id in found:
        move(connection, certificate_id, now, opened_at=None)
    return len(found)


def ask_again(connection: sa.Connection, certificate_id: str, ask_at: datetime | None) -> None:
    """When to ask the authority next; None: never."""
    connection.execute(table.update().where(table.c.certificate_id == certificate_id).values(ask_at=ask_at))


Place = tuple[datetime, str, str]
"""Where a walk along the active enrollments stands: end, address and id of the last one seen."""


def without_row(connection: sa.Connection, after: Place | None, limit: int) -> tuple[list[str], Place | None]:
    """Certificates of active enrollments that have no row, and where to go on, None at the end.

    Walks ``limit`` enrollments a call, so that nobody waits for the walk.
    """
    place = sa.tuple_(enrollment.c.not_after, enrollment.c.address, enrollment.c.id)
    query = (
        sa.select(
            enrollment.c.not_after,
            enrollment.c.address,
            enrollment.c.id,
            enrollment.c.certificate_id,
            table.c.certificate_id.label("planned"),
        )
        .select_from(enrollment.outerjoin(table, table.c.certificate_id == enrollment.c.certificate_id))
        .where(_ACTIVE, enrollment.c.not_after.is_not(None))
        .order_by(enrollment.c.not_after, enrollment.c.address, enrollment.c.id)
        .limit(limit)
    )
    rows = connection.execute(query if after is None else query.where(place > after)).all()
    missing = [row.certificate_id for row in rows if row.planned is None]
    last = rows[-1] if len(rows) == limit else None
    return missing, None if last is None else (last.not_after, last.address, last.id)


def end_of(connection: sa.Connection, certificate_id: str | None) -> datetime | None:
    """The certificate's end, None when there is no such certificate."""
    query = sa.select(certificate.c.not_after).where(certificate.c.id == certificate_id)
    return connection.execute(query).scalar()


def ended(connection: sa.Connection, now: datetime, limit: int, *, unless_of: Collection[str]) -> list[str]:
    """Ids of active enrollments whose certificate's end has passed, ``unless_of`` one of these authorities."""
    query = (
        sa.select(enrollment.c.id)
        .where(_ACTIVE, enrollment.c.not_after <= now, _unindexed(enrollment.c.authority).not_in(list(unless_of)))
        .order_by(enrollment.c.not_after)
        .limit(limit)
    )
    return list(connection.execute(query).scalars())


def authorities(connection: sa.Connection) -> set[str]:
    """All that have any planned, configured or not: a look at their days."""
    return set(connection.execute(sa.select(days.c.authority).distinct()).scalars())


def of_authority(connection: sa.Connection, authority: str, after: str, limit: int) -> list[str]:
    """Certificates that are to be renewed with it, by id, from the first one ``after`` that id."""
    query = (
        sa.select(table.c.certificate_id)
        .where(table.c.certificate_id > after, _unindexed(table.c.authority) == authority)
        .order_by(table.c.certificate_id)
        .limit(limit)
    )
    return list(connection.execute(query).scalars())


def _count(connection: sa.Connection, authority: str, day: int, change: int) -> None:
    insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(days)
    connection.execute(
        insert.values(authority=authority, day=day, planned=max(change, 0)).on_conflict_do_update(
            index_elements=["authority", "day"], set_={"planned": days.c.planned + change}
        )
    )
    if change < 0:
        empty = sa.and_(days.c.authority == authority, days.c.day == day, days.c.planned <= 0)
        connection.execute(days.delete().where(empty))
