# SPDX-License-Identifier: GPL-3.0-or-later
"""What people see of a bulk run, and what a script is told by its exit status."""

import copy
import io
from typing import Any

import click
import pytest
from rich.console import Console

from acme_milter.cli.bulk_options import moment, serials_in, span
from acme_milter.cli.bulk_report import _cell
from acme_milter.cli.bulk_view import BulkLiveView, BulkPlainView, exit_code, text_lines
from acme_milter.cli.exit_codes import ExitCode
from acme_milter.report.bulk_progress import cause_of

OUTCOMES = {"waiting": 0, "open": 0, "retrying": 0, "active": 0, "failed": 0, "skipped": 0}


def domain(name: str, total: int, **outcomes: int) -> dict[str, Any]:
    return {"domain": name, "total": total, **OUTCOMES, **outcomes, "rate_per_hour": 284.0, "eta_seconds": 15060}


RUNNING: dict[str, Any] = {
    "run": {"id": "20261122-abc123", "state": "running", "description": "issue: without a valid one", "stopped": {}},
    "total": 4900,
    "outcomes": {**OUTCOMES, "waiting": 1127, "open": 50, "active": 3714, "failed": 9},
    "domains": [
        domain("example.com", 3800, active=2614, failed=9, open=50, waiting=1127),
        domain("example.de", 1100, active=1100),
    ],
    "rate_per_hour": 284.0,
    "eta_seconds": 15060,
    "stages": {"awaiting-mail": 31, "replying": 12, "finalizing": 7},
    "failures": [{"cause": "mailbox over quota (552)", "number": 6}, {"cause": "CAA forbids it", "number": 3}],
    "retrying": [],
    "skipped": [],
    "authorities": [
        {
            "authority": "pubca",
            "in_flight": 50,
            "in_flight_limit": 50,
            "orders_last_hour": 16,
            "orders_per_hour": 300,
            "mails_per_hour": 60,
            "mails_last_hour": 24,
            "failed_last_hour": 9,
            "failed_per_hour": 25,
        }
    ],
}


def changed(**outcomes: int) -> dict[str, Any]:
    document = copy.deepcopy(RUNNING)
    document["outcomes"] |= outcomes
    return document


def ended(state: str, **outcomes: int) -> dict[str, Any]:
    document = copy.deepcopy(RUNNING)
    document["run"]["state"] = state
    document["outcomes"] = {**OUTCOMES, **outcomes}
    return document


def test_a_terminal_gets_a_bar_for_each_domain_and_the_rest_below() -> None:
    out = io.StringIO()
    with BulkLiveView(Console(file=out, width=140, force_terminal=True, color_system=None)) as view:
        view.show(RUNNING)
    shown = out.getvalue()
    assert "3714/4900 active, 50 open, 9 failed, 284/h, ETA 4 h 11 min" in shown
    assert "━" in shown
    assert "2614/3800" in shown
    assert "1100/1100" in shown
    assert "waiting for mail 31 · replying 12 · finalizing 7" in shown
    assert "failed, 6: mailbox over quota (552)" in shown
    assert "pubca: 50/50 in flight, 16/300 orders and 24/60 challenge mails this hour, 9/25 failures" in shown
    assert "Ctrl-C pauses the run" in shown


def test_names_from_outside_are_no_markup() -> None:
    document = copy.deepcopy(RUNNING)
    document["failures"] = [{"cause": "[red]no[/] [bold", "number": 1}]
    out = io.StringIO()
    with BulkLiveView(Console(file=out, width=140, force_terminal=True, color_system=None)) as view:
        view.show(document)
    assert "[red]no[/] [bold" in out.getvalue()


def test_lines_come_now_and_then_and_at_once_when_something_happens(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    view = BulkPlainView(clock=lambda: now[0])
    for second in range(25):
        now[0] = float(second)
        view.show(changed(active=3714 + second))
    view.show(ended("done", active=4891, failed=9))
    assert capsys.readouterr().out.splitlines() == [
        "run 20261122-abc123 running: 3714/4900 active, 50 open, 9 failed, 284/h, ETA 4 h 11 min",
        "  6x mailbox over quota (552)",
        "  3x CAA forbids it",
        "run 20261122-abc123 running: 3724/4900 active, 50 open, 9 failed, 284/h, ETA 4 h 11 min",
        "run 20261122-abc123 running: 3734/4900 active, 50 open, 9 failed, 284/h, ETA 4 h 11 min",
        "run 20261122-abc123 done: 4891/4900 active, 9 failed",
    ]


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    BulkPlainView(quiet=True).show(RUNNING)
    assert capsys.readouterr().out == ""


def test_status_has_a_line_for_each_domain() -> None:
    lines = text_lines(RUNNING)
    assert "  example.com: 2614/3800, 284/h, ETA 4 h 11 min" in lines
    assert "  example.de: 1100/1100, done" in lines


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (ended("done", active=3), ExitCode.OK),
        (ended("done", active=3, skipped=1), ExitCode.OK),
        (ended("done", active=3, failed=1), ExitCode.PARTLY),
        (ended("done", failed=4), ExitCode.FAILED),
        (ended("paused", active=3), ExitCode.TRY_LATER),
        (ended("stopped", active=3, failed=25), ExitCode.PARTLY),
        (ended("stopped", failed=25), ExitCode.FAILED),
    ],
)
def test_the_exit_status_says_how_it_ended(document: dict[str, Any], code: ExitCode) -> None:
    assert exit_code(document) is code


def test_causes_are_counted_without_what_is_particular_to_a_mailbox() -> None:
    first = cause_of("rejectedIdentifier: alice@org.example is not ours, see https://ca.example/o/1234567890ab")
    second = cause_of("rejectedIdentifier: bob@org.example is not ours, see https://ca.example/o/fedcba987654")
    assert first == second
    assert "rejectedIdentifier" in first


@pytest.mark.parametrize(
    ("value", "iso"),
    [
        ("2026-05-04", "2026-05-04T00:00:00+00:00"),
        ("2026-05-08T15:00+02:00", "2026-05-08T13:00:00+00:00"),
        ("2026-05-08T15:00Z", "2026-05-08T15:00:00+00:00"),
    ],
)
def test_dates_are_utc_unless_they_say_otherwise(value: str, iso: str) -> None:
    assert moment(value).isoformat() == iso


def test_nonsense_is_no_date_and_no_duration() -> None:
    with pytest.raises(click.BadParameter, match="2026-05-04"):
        moment("4 May")
    with pytest.raises(click.BadParameter, match="30d"):
        span("a month")


def test_serials_are_read_as_people_write_them(tmp_path: Any) -> None:
    path = tmp_path / "serials"
    path.write_text("# from the notice\n0A:1B:2C\n0x00ff\n\n  DEADBEEF \n")
    assert serials_in(str(path)) == {"a1b2c", "ff", "deadbeef"}
    path.write_text("12 34 xyz\n")
    with pytest.raises(click.UsageError, match="no serial number"):
        serials_in(str(path))


def test_no_reason_is_a_formula_to_a_spreadsheet() -> None:
    assert _cell('=HYPERLINK("http://x")') == '\'=HYPERLINK("http://x")'
    assert _cell("mailbox over quota") == "mailbox over quota"
