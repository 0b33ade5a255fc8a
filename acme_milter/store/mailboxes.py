# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on mailboxes: what the sources have said of each, so that a change can be told from a fault."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from acme_milter.enrollment.model import OPEN_STATES, State
from acme_milter.store.schema import bulk_item, certificate, delivery, enrollment, renewal
from acme_milter.store.schema import mailbox as table

AT_ONCE = 500
"""Rows in one statement or transaction: a challenge mail's commit must not wait longer than a fraction of a second."""

_NO_GROUPS: frozenset[str] = frozenset()
_UNFINISHED = OPEN_STATES - {State.FINALIZING, State.ISSUED}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMailbox:
    """``folded`` is the address in lower case; ``principal`` whose keys its keys are; ``person_id`` what the source
    calls the person at present. ``came_as`` is a mailboxes.record.CameAs. Missing: its source does not list it since;
    left: it is not managed any more. Handed over: it became another person's then. ``alias_of`` is the mailbox whose
    alias it is, which may have ``aliases``, too.
    """

    address: str
    folded: str
    domain: str
    source: str
    principal: str
    person_id: str | None = None
    person_name: str | None = None
    groups: frozenset[str] = frozenset()
    came_as: str
    first_seen_at: datetime
    missing_since: datetime | None = None
    left_at: datetime | None = None
    handed_over_at: datetime | None = None
    aliases: tuple[str, ...] = ()
    alias_of: str | None = None

    @property
    def is_present(self) -> bool:
        """Its source lists it."""
        return self.missing_since is None and self.left_at is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Of one source. ``waiting`` are part of ``present``."""

    present: int
    missing: int
    left: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Astray:
    """An enrollment whose mailbox is not its person's any more."""

    enrollment_id: str
    folded: str
    has_left: bool


def save(connection: sa.Connection, rows: Sequence[StoredMailbox]) -> None:
    """Insert or overwrite, known by their folded address; AT_ONCE at most in one transaction, please."""
    if not rows:
        return
    insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)
    columns = {column.name: insert.excluded[column.name] for column in table.columns if column.name != "folded"}
    upsert = insert.on_conflict_do_update(index_elements=["folded"], set_=columns)
    connection.execute(upsert, [_to_values(row) for row in rows])


def find(connection: sa.Connection, address: str) -> StoredMailbox | None:
    """By an address in any case; also one that has left."""
    row = connection.execute(sa.select(table).where(table.c.folded == address.lower())).first()
    return None if row is None else _from_row(row)


def find_many(connection: sa.Connection, folded: Sequence[str]) -> dict[str, StoredMailbox]:
    """By folded address, however many; also those that have left."""
    found: dict[str, StoredMailbox] = {}
    for start in range(0, len(folded), AT_ONCE):
        wanted = table.c.folded.in_(folded[start : start + AT_ONCE])
        found |= {row.folded: _from_row(row) for row in connection.execute(sa.select(table).where(wanted))}
    return found


def of_source(connection: sa.Connection, source: str) -> dict[str, StoredMailbox]:
    """Every mailbox that belongs to the source, left ones included, by folded address."""
    rows = connection.execute(sa.select(table).where(table.c.source == source))
    return {row.folded: _from_row(row) for row in rows}


def not_left(connection: sa.Connection) -> Iterator[StoredMailbox]:
    """All that are present or missing, in no order."""
    for row in connection.execute(sa.select(table).where(table.c.left_at.is_(None))):
        yield _from_row(row)


def sources(connection: sa.Connection) -> set[str]:
    """Names of the sources to which mailboxes belong that have not left."""
    return set(connection.execute(sa.select(table.c.source).where(table.c.left_at.is_(None)).distinct()).scalars())


def counts(connection: sa.Connection, *, waiting: str) -> dict[str, Counts]:
    """By source; ``waiting`` is the ``came_as`` of those that a guard holds."""
    left = table.c.left_at.is_not(None)
    missing = sa.and_(table.c.missing_since.is_not(None), ~left)
    present = sa.and_(table.c.missing_since.is_(None), ~left)

    def number(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        return sa.func.coalesce(sa.func.sum(sa.case((condition, 1), else_=0)), 0)

    held = sa.and_(present, table.c.came_as == waiting)
    rows = connection.execute(
        sa.select(table.c.source, number(present), number(missing), number(left), number(held)).group_by(table.c.source)
    )
    return {
        source: Counts(present=int(here), missing=int(gone), left=int(away), waiting=int(held_back))
        for source, here, gone, away, held_back in rows
    }


def respell(connection: sa.Connection, old: str, new: str) -> None:
    """The same mailbox, spelled anew: whatever is known by the old spelling is known by the new one.

    Not while an order is open: its challenge is recognized by the spelling that was ordered. Audit records and
    principals keep the old one; keys are sealed for it.
    """
    for known in (enrollment, certificate, renewal, bulk_item, delivery, table):
        connection.execute(known.update().where(known.c.address == old).values(address=new))
    connection.execute(table.update().where(table.c.alias_of == old).values(alias_of=new))


def astray(connection: sa.Connection, limit: int) -> list[Astray]:
    """Enrollments that end or go out of use because their mailbox has left, or is another person's.

    One whose certificate may be under way at the authority is not among them: it is fetched first, so that somebody
    knows of it, and then is ACTIVE.
    """
    concerned = [state.value for state in _UNFINISHED | {State.ACTIVE}]
    rows = connection.execute(
        sa.select(enrollment.c.id, table.c.folded, table.c.left_at)
        .join(enrollment, enrollment.c.address == table.c.address)
        .where(
            enrollment.c.state.in_(concerned),
            sa.or_(table.c.left_at.is_not(None), enrollment.c.principal != table.c.principal),
        )
        .limit(limit)
    )
    return [Astray(enrollment_id=row.id, folded=row.folded, has_left=row.left_at is not None) for row in rows]


def held_by(connection: sa.Connection, addresses: Sequence[str]) -> dict[str, str]:
    """Address → principal of enrollments that are open or active, for mailboxes that are not in the table yet."""
    found: dict[str, str] = {}
    states = [state.value for state in OPEN_STATES | {State.ACTIVE}]
    for start in range(0, len(addresses), AT_ONCE):
        rows = connection.execute(
            sa.select(enrollment.c.address, enrollment.c.principal).where(
                enrollment.c.address.in_(addresses[start : start + AT_ONCE]), enrollment.c.state.in_(states)
            )
        )
        found |= {row.address: row.principal for row in rows}
    return found


def has_open_enrollment(connection: sa.Connection, address: str) -> bool:
    """With any authority."""
    states = [state.value for state in OPEN_STATES]
    found = sa.select(enrollment.c.id).where(enrollment.c.address == address, enrollment.c.state.in_(states)).limit(1)
    return connection.execute(found).first() is not None


def _to_values(row: StoredMailbox) -> dict[str, Any]:
    values = {column.name: getattr(row, column.name) for column in table.columns}
    values["groups"] = json.dumps(sorted(row.groups))
    values["aliases"] = json.dumps(row.aliases, ensure_ascii=False)
    return values


def _from_row(row: sa.Row[Any]) -> StoredMailbox:
    values = row._asdict()
    values["groups"] = _NO_GROUPS if values["groups"] == "[]" else frozenset(json.loads(values["groups"]))
    values["aliases"] = () if values["aliases"] == "[]" else tuple(json.loads(values["aliases"]))
    return StoredMailbox(**values)
