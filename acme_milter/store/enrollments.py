# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on enrollments. Each takes the connection of a transaction that the caller opened."""

import dataclasses
import uuid
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from acme_milter.enrollment.model import OPEN_STATES, Enrollment, State
from acme_milter.store.schema import enrollment as table

_FIELDS = [field.name for field in dataclasses.fields(Enrollment)]
_COLUMNS = [table.c[name] for name in _FIELDS]


class StaleVersion(Exception):
    """Somebody else moved the enrollment on since it was read; whatever was computed from it is void."""


class AlreadyOpen(Exception):
    """The mailbox has an open enrollment with this authority already."""


def _from_row(row: sa.Row[tuple[Any, ...]]) -> Enrollment:
    values: dict[str, Any] = dict(zip(_FIELDS, row, strict=True))
    values["state"] = State(values["state"])
    return Enrollment(**values)


def _to_values(enrollment: Enrollment) -> dict[str, object]:
    values = {name: getattr(enrollment, name) for name in _FIELDS}
    values["state"] = enrollment.state.value
    return values


def open_new(
    connection: sa.Connection,
    *,
    address: str,
    authority: str,
    now: datetime,
    generation: int = 1,
    next_attempt_at: datetime | None = None,
    enrollment_id: str | None = None,
) -> Enrollment:
    """Insert and return a PLANNED enrollment, due at ``next_attempt_at`` (default: now). Raises AlreadyOpen."""
    fresh = Enrollment(
        id=enrollment_id or uuid.uuid4().hex,
        address=address,
        authority=authority,
        state=State.PLANNED,
        version=1,
        generation=generation,
        opened_at=now,
        state_since=now,
        next_attempt_at=next_attempt_at or now,
    )
    if find_open(connection, address, authority) is not None:
        raise AlreadyOpen(address)
    connection.execute(table.insert().values(_to_values(fresh)))
    return fresh


def get(connection: sa.Connection, enrollment_id: str) -> Enrollment | None:
    row = connection.execute(sa.select(*_COLUMNS).where(table.c.id == enrollment_id)).first()
    return None if row is None else _from_row(row)


def get_many(connection: sa.Connection, ids: Sequence[str]) -> list[Enrollment]:
    rows = connection.execute(sa.select(*_COLUMNS).where(table.c.id.in_(ids)))
    return [_from_row(row) for row in rows]


def find_open(connection: sa.Connection, address: str, authority: str) -> Enrollment | None:
    """The one open enrollment of the mailbox with the authority."""
    row = connection.execute(
        sa.select(*_COLUMNS).where(
            table.c.address == address, table.c.authority == authority, table.c.state.in_(OPEN_STATES)
        )
    ).first()
    return None if row is None else _from_row(row)


def of_mailbox(connection: sa.Connection, address: str) -> list[Enrollment]:
    """Every enrollment of the mailbox, the newest first."""
    rows = connection.execute(
        sa.select(*_COLUMNS).where(table.c.address == address).order_by(table.c.opened_at.desc(), table.c.id)
    )
    return [_from_row(row) for row in rows]


def open_of_mailbox(connection: sa.Connection, address: str) -> list[Enrollment]:
    rows = connection.execute(sa.select(*_COLUMNS).where(table.c.address == address, table.c.state.in_(OPEN_STATES)))
    return [_from_row(row) for row in rows]


def in_state(connection: sa.Connection, state: State) -> list[Enrollment]:
    rows = connection.execute(
        sa.select(*_COLUMNS).where(table.c.state == state.value).order_by(table.c.address, table.c.opened_at)
    )
    return [_from_row(row) for row in rows]


def count_by_state(connection: sa.Connection) -> dict[tuple[str, State], int]:
    """Number of enrollments by (authority, state)."""
    rows = connection.execute(
        sa.select(table.c.authority, table.c.state, sa.func.count()).group_by(table.c.authority, table.c.state)
    )
    return {(authority, State(state)): count for authority, state, count in rows}


def due(
    connection: sa.Connection, *, now: datetime, limit: int, states: Collection[State]
) -> list[tuple[str, str, State]]:
    """Ids, authorities and states of enrollments that are due and not leased, the longest waiting first."""
    rows = connection.execute(
        sa.select(table.c.id, table.c.authority, table.c.state)
        .where(
            table.c.next_attempt_at <= now,
            table.c.state.in_(states),
            sa.or_(table.c.lease_until.is_(None), table.c.lease_until < now),
        )
        .order_by(table.c.next_attempt_at)
        .limit(limit)
    )
    return [(row.id, row.authority, State(row.state)) for row in rows]


def next_due_at(connection: sa.Connection) -> datetime | None:
    """When the next enrollment becomes due; it may be in the past."""
    earliest: datetime | None = connection.execute(sa.select(sa.func.min(table.c.next_attempt_at))).scalar_one()
    return earliest


def claim(
    connection: sa.Connection, enrollment_id: str, *, owner: str, now: datetime, until: datetime
) -> Enrollment | None:
    """Lease the enrollment to ``owner``; ``None`` when another one holds it or it is not due any more."""
    taken = connection.execute(
        table.update()
        .where(
            table.c.id == enrollment_id,
            table.c.next_attempt_at <= now,
            sa.or_(table.c.lease_until.is_(None), table.c.lease_until < now),
        )
        .values(lease_owner=owner, lease_until=until)
    )
    return get(connection, enrollment_id) if taken.rowcount == 1 else None


def save(connection: sa.Connection, moved: Enrollment, *, release: bool = True) -> None:
    """Write the enrollment as ``advance`` returned it, and end the lease unless told to keep it.

    Compare-and-swap: raises StaleVersion when the stored version is not the one before.
    """
    values = _to_values(moved)
    if release:
        values |= {"lease_owner": None, "lease_until": None}
    written = connection.execute(
        table.update().where(table.c.id == moved.id, table.c.version == moved.version - 1).values(values)
    )
    if written.rowcount != 1:
        raise StaleVersion(moved.id)


def release(connection: sa.Connection, enrollment_id: str, *, owner: str) -> None:
    """Give a lease back without having done anything."""
    connection.execute(
        table.update()
        .where(table.c.id == enrollment_id, table.c.lease_owner == owner)
        .values(lease_owner=None, lease_until=None)
    )


def release_all(connection: sa.Connection, *, owner: str) -> None:
    """At start: leases that this owner held when it died are void."""
    connection.execute(table.update().where(table.c.lease_owner == owner).values(lease_owner=None, lease_until=None))
