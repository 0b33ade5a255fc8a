# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on bulk runs. Each takes the connection of a transaction that the caller opened."""

import enum
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from acme_milter.store.schema import bulk_item
from acme_milter.store.schema import bulk_run as runs


class Kind(enum.StrEnum):
    """What a run is for."""

    ISSUE = "issue"
    REPLACE = "replace"  # what is replaced is over as soon as its successor is active


class RunState(enum.StrEnum):
    """Where a run stands. Each comment says what it opens."""

    RECEIVING = "receiving"  # nothing: the command is still sending its mailboxes
    RUNNING = "running"  # as much as there is room for
    PAUSED = "paused"  # nothing, until a person resumes it
    STOPPED = "stopped"  # nothing: every authority it still needs had too many failures
    DONE = "done"  # nothing: every mailbox has its outcome
    CANCELLED = "cancelled"  # nothing, for ever


UNENDED = frozenset({RunState.RECEIVING, RunState.RUNNING, RunState.PAUSED, RunState.STOPPED})


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkRun:
    """``stopped``: authorities that nothing more is opened with, and why. ``revoke_reason``: RFC 5280 §5.3.1, for what
    is replaced. Failures before ``counted_from`` do not stop it.
    """

    id: str
    kind: Kind
    state: RunState
    description: str
    created_at: datetime
    counted_from: datetime
    ended_at: datetime | None = None
    stopped: Mapping[str, str]
    revoke_reason: int | None = None


def insert(connection: sa.Connection, run: BulkRun) -> None:
    connection.execute(
        runs.insert().values(
            id=run.id,
            kind=run.kind.value,
            state=run.state.value,
            description=run.description,
            created_at=run.created_at,
            counted_from=run.counted_from,
            ended_at=run.ended_at,
            stopped_authorities=json.dumps(dict(run.stopped)),
            revoke_reason=run.revoke_reason,
        )
    )


def get(connection: sa.Connection, run_id: str) -> BulkRun | None:
    found = _runs(connection, runs.c.id == run_id)
    return found[0] if found else None


def newest(connection: sa.Connection, *, unended: bool = False) -> BulkRun | None:
    """The run that was begun last, of those that have not ended if so wished."""
    wanted = runs.c.state.in_(UNENDED) if unended else runs.c.state != RunState.RECEIVING.value
    found = _runs(connection, wanted, limit=1)
    return found[0] if found else None


def newest_first(connection: sa.Connection, limit: int) -> list[BulkRun]:
    return _runs(connection, sa.true(), limit=limit)


def in_state(connection: sa.Connection, *states: RunState) -> list[BulkRun]:
    """Runs in these states, replacements first (somebody's revocation may be due), then the oldest first."""
    found = _runs(connection, runs.c.state.in_([state.value for state in states]))
    return sorted(found, key=lambda run: (run.kind is not Kind.REPLACE, run.created_at, run.id))


def _runs(connection: sa.Connection, wanted: sa.ColumnElement[bool], limit: int | None = None) -> list[BulkRun]:
    rows = connection.execute(sa.select(runs).where(wanted).order_by(runs.c.created_at.desc(), runs.c.id).limit(limit))
    return [
        BulkRun(
            id=row.id,
            kind=Kind(row.kind),
            state=RunState(row.state),
            description=row.description,
            created_at=row.created_at,
            counted_from=row.counted_from,
            ended_at=row.ended_at,
            stopped=json.loads(row.stopped_authorities),
            revoke_reason=row.revoke_reason,
        )
        for row in rows
    ]


def move(connection: sa.Connection, run_id: str, *, to: RunState, of: Collection[RunState], now: datetime) -> bool:
    """Change the run's state if it is one ``of`` these; a run that ends, or goes on, is dated accordingly."""
    ended_at = None if to in UNENDED else now
    changed = connection.execute(
        runs.update()
        .where(runs.c.id == run_id, runs.c.state.in_([state.value for state in of]))
        .values(state=to.value, ended_at=ended_at)
    )
    return changed.rowcount == 1


def begin_again(connection: sa.Connection, run_id: str, now: datetime) -> None:
    """Have it open enrollments (again): what failed until now does not stop it any more."""
    connection.execute(
        runs.update()
        .where(runs.c.id == run_id)
        .values(state=RunState.RUNNING.value, ended_at=None, counted_from=now, stopped_authorities="{}")
    )


def set_stopped(connection: sa.Connection, run_id: str, stopped: Mapping[str, str]) -> None:
    connection.execute(runs.update().where(runs.c.id == run_id).values(stopped_authorities=json.dumps(dict(stopped))))


def forget(connection: sa.Connection, run_id: str) -> None:
    """Delete a run that never began."""
    connection.execute(bulk_item.delete().where(bulk_item.c.run_id == run_id))
    connection.execute(runs.delete().where(runs.c.id == run_id))
