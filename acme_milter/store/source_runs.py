# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on how reading each source went the last time."""

import dataclasses
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from acme_milter.store.schema import source_run as table


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRun:
    """``number`` is of mailboxes at the last success; ``error`` is of the last attempt, None when it succeeded.

    ``changed_at``: when what it said last changed any mailbox.
    """

    source: str
    attempted_at: datetime
    succeeded_at: datetime | None
    number: int
    error: str | None
    changed_at: datetime | None = None


def get(connection: sa.Connection, source: str) -> SourceRun | None:
    row = connection.execute(sa.select(table).where(table.c.source == source)).first()
    return None if row is None else SourceRun(**row._asdict())


def all_runs(connection: sa.Connection) -> dict[str, SourceRun]:
    """Of every source that was ever tried, by name."""
    rows = connection.execute(sa.select(table).order_by(table.c.source))
    return {row.source: SourceRun(**row._asdict()) for row in rows}


def changes(connection: sa.Connection) -> dict[str, datetime | None]:
    """When each source last changed any mailbox: what is new here was applied by somebody since."""
    rows = connection.execute(sa.select(table.c.source, table.c.changed_at))
    return {row.source: row.changed_at for row in rows}


def succeeded(connection: sa.Connection, source: str, now: datetime, number: int, *, changed: bool = False) -> None:
    """Written after what was read is stored: until then the next reading is still the first one."""
    known = None if changed else get(connection, source)
    changed_at = now if changed else None if known is None else known.changed_at
    run = SourceRun(source=source, attempted_at=now, succeeded_at=now, number=number, error=None, changed_at=changed_at)
    _write(connection, run)


def failed(connection: sa.Connection, source: str, now: datetime, error: str) -> None:
    """Nothing but this is changed by a source that cannot be read."""
    known = get(connection, source)
    before = known or SourceRun(source=source, attempted_at=now, succeeded_at=None, number=0, error=None)
    run = dataclasses.replace(before, attempted_at=now, error=error)
    _write(connection, run)


def _write(connection: sa.Connection, run: SourceRun) -> None:
    values = {column.name: getattr(run, column.name) for column in table.columns}
    written = connection.execute(table.update().where(table.c.source == run.source).values(values))
    if written.rowcount == 0:
        connection.execute(table.insert().values(values))
