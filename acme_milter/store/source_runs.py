# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on how reading each source went the last time."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from acme_milter.store.schema import source_run as table


@dataclass(frozen=True, slots=True)
class LeftOut:
    """So many that a source lists in ``domain`` and nobody manages, for one reason. ``domain`` is empty for what is no
    address; ``examples`` are a few of them.
    """

    domain: str
    reason: str
    number: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRun:
    """``number`` is of mailboxes at the last success; ``error`` is of the last attempt, None when it succeeded.

    ``changed_at``: when what it said last changed any mailbox. ``excluded`` is of the last success.
    """

    source: str
    attempted_at: datetime
    succeeded_at: datetime | None
    number: int
    error: str | None
    changed_at: datetime | None = None
    excluded: tuple[LeftOut, ...] = ()


def get(connection: sa.Connection, source: str) -> SourceRun | None:
    row = connection.execute(sa.select(table).where(table.c.source == source)).first()
    return None if row is None else _run(row)


def all_runs(connection: sa.Connection) -> dict[str, SourceRun]:
    """Of every source that was ever tried, by name."""
    rows = connection.execute(sa.select(table).order_by(table.c.source))
    return {row.source: _run(row) for row in rows}


def changes(connection: sa.Connection) -> dict[str, datetime | None]:
    """When each source last changed any mailbox: what is new here was applied by somebody since."""
    rows = connection.execute(sa.select(table.c.source, table.c.changed_at))
    return {row.source: row.changed_at for row in rows}


def succeeded(
    connection: sa.Connection,
    source: str,
    now: datetime,
    number: int,
    *,
    changed: bool = False,
    excluded: Sequence[LeftOut] = (),
) -> None:
    """Written after what was read is stored: until then the next reading is still the first one."""
    known = None if changed else get(connection, source)
    changed_at = now if changed else None if known is None else known.changed_at
    run = SourceRun(
        source=source,
        attempted_at=now,
        succeeded_at=now,
        number=number,
        error=None,
        changed_at=changed_at,
        excluded=tuple(excluded),
    )
    _write(connection, run)


def failed(connection: sa.Connection, source: str, now: datetime, error: str) -> None:
    """Nothing but this is changed by a source that cannot be read."""
    known = get(connection, source)
    before = known or SourceRun(source=source, attempted_at=now, succeeded_at=None, number=0, error=None)
    run = dataclasses.replace(before, attempted_at=now, error=error)
    _write(connection, run)


def _run(row: sa.Row[Any]) -> SourceRun:
    excluded = (
        LeftOut(domain, reason, number, tuple(examples))
        for domain, reason, number, examples in json.loads(row.excluded)
    )
    return SourceRun(**{**row._asdict(), "excluded": tuple(excluded)})


def _write(connection: sa.Connection, run: SourceRun) -> None:
    values = {column.name: getattr(run, column.name) for column in table.columns}
    values["excluded"] = json.dumps([dataclasses.astuple(one) for one in run.excluded], ensure_ascii=False)
    written = connection.execute(table.update().where(table.c.source == run.source).values(values))
    if written.rowcount == 0:
        connection.execute(table.insert().values(values))
