# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on mailboxes: what the sources have said of each, so that a change can be told from a fault."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from acme_milter.store.schema import bulk_item, certificate, enrollment, renewal
from acme_milter.store.schema import mailbox as table

AT_ONCE = 500
"""Rows in one statement or transaction: a challenge mail's commit must not wait longer than a fraction of a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMailbox:
    """``folded`` is the address in lower case; ``principal`` whose keys its keys are; ``person_id`` what the source
    calls the person at present. ``came_as`` is a mailboxes.record.CameAs. Missing: its source does not list it since;
    left: it is not managed any more.
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
    for known in (enrollment, certificate, renewal, bulk_item, table):
        connection.execute(known.update().where(known.c.address == old).values(address=new))


def _to_values(row: StoredMailbox) -> dict[str, Any]:
    values = {column.name: getattr(row, column.name) for column in table.columns}
    values["groups"] = json.dumps(sorted(row.groups))
    return values


def _from_row(row: sa.Row[Any]) -> StoredMailbox:
    values = row._asdict()
    values["groups"] = frozenset(json.loads(values["groups"]))
    return StoredMailbox(**values)
