# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on how reading each source went the last time."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from acme_milter.store.schema import source_run as table


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRun:
    """``number`` is of mailboxes at the last success; ``error`` is of the last attempt, None when it succeeded."""

    source: str
    attempted_at: datetime
    succeeded_at: datetime | None
    number: int
    error: str | None


def get(connection: sa.Connection, source: str) -> SourceRun | None:
    row = connection.execute(sa.select(table).where(table.c.source == source)).first()
    return None if row is None else SourceRun(**row._asdict())


def all_runs(connection: sa.Connection) -> dict[str, SourceRun]:
    """Of every source that was ever tried, by name."""
    rows = connection.execute(sa.select(table).order_by(table.c.source))
    return {row.source: SourceRun(**row._asdict()) for row in rows}


def succeeded(connection: sa.Connection, source: str, now: datetime, number: int) -> None:
    """Written after what was read is stored: until then the next reading is still the first one."""
    _write(connection, SourceRun(source=source, attempted_at=now, succeeded_at=now, number=number, error=None))


def failed(connection: sa.Connection, source: str, now: datetime, error: str) -> None:
    """Nothing but this is changed by a source that cannot be read."""
    known = get(connection, source)
    succeeded_at, number = (None, 0) if known is None else (known.succeeded_at, known.number)
    run = SourceRun(source=source, attempted_at=now, succeeded_at=succeeded_at, number=number, error=error)
    _write(connection, run)


def _write(connection: sa.Connection, run: SourceRun) -> None:
    values = {column.name: getattr(run, column.name) for column in table.columns}
    written = connection.execute(table.update().where(table.c.source == run.source).values(values))
    if written.rowcount == 0:
        connection.execute(table.insert().values(values))
