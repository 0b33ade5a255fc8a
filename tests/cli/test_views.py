# SPDX-License-Identifier: GPL-3.0-or-later
"""What people see of enrollments: tables that fit, and the reason when something is in the way."""

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from acme_milter.cli.progress import LiveView, PlainView
from acme_milter.cli.status import COLUMNS
from acme_milter.cli.table import print_table
from acme_milter.enrollment.model import State
from acme_milter.report.rows import remark_of
from acme_milter.store.overview import Overview

NOW = datetime(2026, 11, 22, 6, 0, tzinfo=UTC)
REFUSED = "ca.example:443: Connection refused"
ROW = Overview(
    id="1",
    address="alice@org.example",
    authority="ca",
    state=State.PLANNED,
    opened_at=NOW,
    state_since=NOW,
    next_attempt_at=NOW + timedelta(seconds=30),
    attempts=1,
    last_error=REFUSED,
    successor_id=None,
    serial=None,
    not_after=None,
    challenge_queue_id=None,
    reply_queue_id=None,
)
CELLS = (
    "someone.with.a.name@branch.example",
    "active",
    "d694ee639abdf726…",
    "2027-11-22",
    "5.7",
    "9AAFC2122E0",
    "BAC",
    "",
)


def printed(width: int, rows: list[tuple[str, ...]], *, terminal: bool) -> list[str]:
    out = io.StringIO()
    print_table(Console(file=out, width=width, force_terminal=terminal, color_system=None), COLUMNS, rows)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_in_a_pipe_each_row_is_one_whole_line_however_long() -> None:
    remark = "a remark of many words " * 20
    header, line = printed(80, [(*CELLS[:-1], remark)], terminal=False)
    assert all(text.strip() in line for text in (*CELLS, remark))
    assert header.split() == ["mailbox", "state", "serial", "not", "after", "seconds", "challenge", "reply", "remark"]


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_a_narrow_terminal_gets_fewer_columns_and_no_broken_address(width: int) -> None:
    lines = printed(width, [CELLS], terminal=True)
    assert len(lines) == 2
    assert all(len(line) <= width for line in lines)
    assert lines[1].startswith("someone.with.a.name@branch.example  active")
    assert ("serial" in lines[0]) == (width >= 100)


def test_a_long_remark_folds_and_costs_no_more_than_its_share() -> None:
    lines = printed(100, [(*CELLS[:-1], REFUSED + "; next attempt at 2026-11-22 06:00:30 UTC")], terminal=True)
    assert "not after" in lines[0]
    assert len(lines) > 2


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (ROW, f"{REFUSED}; next attempt at 2026-11-22 06:00:30 UTC"),
        (replace(ROW, last_error=None), "may begin from 2026-11-22 06:00:30 UTC on"),
        (replace(ROW, state=State.FAILED, successor_id="2"), f"{REFUSED}; will be ordered again"),
        (replace(ROW, state=State.FAILED), REFUSED),
        (replace(ROW, state=State.ACTIVE, last_error=None), ""),
    ],
)
def test_a_remark_says_what_is_wrong_and_what_happens_next(row: Overview, words: str) -> None:
    assert remark_of(row) == words


def test_lines_tell_each_trouble_once(capsys: pytest.CaptureFixture[str]) -> None:
    view = PlainView()
    for attempts in (1, 2, 3):
        view.show([replace(ROW, attempts=attempts, next_attempt_at=NOW + timedelta(seconds=attempts))])
    view.show([replace(ROW, last_error="another one")])
    assert capsys.readouterr().out.splitlines() == [
        "planned 1",
        f"alice@org.example: {REFUSED}; next attempt at 2026-11-22 06:00:01 UTC",
        "alice@org.example: another one; next attempt at 2026-11-22 06:00:30 UTC",
    ]


def test_nothing_to_follow_is_no_empty_line_and_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    PlainView().show([])
    PlainView(quiet=True).show([ROW])
    assert capsys.readouterr().out == ""


def test_the_live_view_names_a_few_of_many_troubles() -> None:
    out = io.StringIO()
    with LiveView(Console(file=out, width=120, force_terminal=True, color_system=None)) as view:
        view.show([replace(ROW, id=str(number), address=f"m{number}@org.example") for number in range(7)])
    shown = out.getvalue()
    assert f"m4@org.example: {REFUSED}" in shown
    assert "m5@org.example" not in shown
    assert "… and 2 more, see: acme-milter status" in shown
