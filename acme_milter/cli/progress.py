# SPDX-License-Identifier: GPL-3.0-or-later
"""Following enrollments: a live view on a terminal, plain lines elsewhere, and the table at the end."""

import enum
from collections import Counter
from collections.abc import Sequence
from typing import Protocol, Self

import click
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from acme_milter.enrollment.model import State
from acme_milter.report.rows import remark_of
from acme_milter.store.overview import Overview

STAGES: tuple[tuple[str, frozenset[State]], ...] = (
    ("planned", frozenset({State.PLANNED})),
    ("ordering", frozenset({State.ORDERING})),
    ("waiting for mail", frozenset({State.AWAITING_MAIL})),
    ("replying", frozenset({State.REPLYING, State.REPLIED})),
    ("validating", frozenset({State.VALIDATING})),
    ("finalizing", frozenset({State.FINALIZING, State.ISSUED})),
    ("issued", frozenset({State.ACTIVE, State.SUPERSEDED, State.REHEARSED})),
    ("failed", frozenset({State.FAILED, State.CANCELLED, State.REVOKED, State.EXPIRED})),
)
"""The words people see, and the states that each stands for."""


class Ending(enum.Enum):
    """Why following ended."""

    DONE = "done"
    TIMED_OUT = "timed-out"


class View(Protocol):
    """Something that shows how enrollments are doing."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc_info: object) -> None: ...
    def show(self, rows: Sequence[Overview]) -> None: ...


def count_stages(rows: Sequence[Overview]) -> list[tuple[str, int]]:
    """How many enrollments are in each stage, in the order in which they pass them."""
    counts = Counter(row.state for row in rows)
    return [(name, sum(counts[state] for state in states)) for name, states in STAGES]


def _in_the_way(rows: Sequence[Overview]) -> list[Overview]:
    return [row for row in rows if row.last_error and row.state is not State.ACTIVE]


REMARKS = 5
"""Mailboxes whose trouble the live view names; `status` names all."""


class LiveView:
    """A bar for each stage, redrawn in place, and below them what is in the way."""

    def __init__(self, console: Console | None = None) -> None:
        self._live = Live(console=console, refresh_per_second=8)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, rows: Sequence[Overview]) -> None:
        table = Table.grid(padding=(0, 2))
        for name, count in count_stages(rows):
            style = {"issued": "green", "failed": "red"}.get(name, "cyan")
            bar = ProgressBar(total=max(len(rows), 1), completed=count, width=32, complete_style=style)
            table.add_row(name, bar, str(count))
        troubled = _in_the_way(rows)
        lines = [Text(f"{row.address}: {remark_of(row)}") for row in troubled[:REMARKS]]
        if len(troubled) > REMARKS:
            lines.append(Text(f"… and {len(troubled) - REMARKS} more, see: acme-milter status"))
        self._live.update(Group(table, *lines))


class PlainView:
    """One line whenever a count changes or something new is in the way; nothing at all when ``quiet``."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._last: list[tuple[str, int]] = []
        self._told: set[tuple[str, str | None]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def show(self, rows: Sequence[Overview]) -> None:
        counts = count_stages(rows)
        if rows and counts != self._last and not self._quiet:
            click.echo(", ".join(f"{name} {count}" for name, count in counts if count))
        self._last = counts
        for row in _in_the_way(rows):
            if (row.id, row.last_error) not in self._told and not self._quiet:
                click.echo(f"{row.address}: {remark_of(row)}")
            self._told.add((row.id, row.last_error))
