# SPDX-License-Identifier: GPL-3.0-or-later
"""What `bulk` says to somebody who asked for something that cannot be."""

import json
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from acme_milter.cli.main import cli
from acme_milter.lab.organization import fill
from acme_milter.store import bulk_items, bulk_runs
from acme_milter.store.bulk_items import BulkItem
from acme_milter.store.bulk_runs import BulkRun, Kind, RunState
from acme_milter.store.database import Database

PAGE = Path(__file__).parents[2] / "docs/bulk.md"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    authority = {"directory": "https://ca.example/dir", "contact": ["pm@org.example"], "agree_tos": True}
    (tmp_path / "staff.csv").touch()
    document = {
        "version": 1,
        "store": {"url": f"sqlite:///{tmp_path / 'store.db'}"},
        "worker": {"control_socket": str(tmp_path / "control.sock")},
        "authorities": {"ca": authority},
        "sources": {"staff": {"type": "csv", "path": str(tmp_path / "staff.csv")}},
        "domains": {"org.example": {"source": "staff", "authorities": ["ca"]}},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(document))
    (tmp_path / "c.yaml").chmod(0o600)
    database = Database(f"sqlite:///{tmp_path / 'store.db'}")
    database.upgrade()
    fill(database, mailboxes=4, certificates=2, now=datetime.now(UTC))
    database.close()
    return tmp_path


def bulk(directory: Path, *arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(cli, ["--config", str(directory / "c.yaml"), "bulk", *arguments], input=stdin)


def plan_file(directory: Path, **changes: object) -> str:
    assert bulk(directory, "plan", "-o", "plan.json").exit_code == 0
    path = directory / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return str(path)


def test_a_plan_needs_no_worker_and_says_what_comes_next(directory: Path) -> None:
    made = bulk(directory, "plan", "-o", "plan.json")
    assert made.exit_code == 0, made.stderr
    assert made.stdout.splitlines()[0] == "issue: without a valid certificate: 2 mailboxes"
    next_line = f"next: acme-milter --config {directory / 'c.yaml'} bulk run plan.json"
    assert made.stdout.splitlines()[-1].endswith(next_line)
    assert not list(directory.glob("tmp*")), "no half-written file stays"
    document = json.loads(bulk(directory, "plan", "--json").stdout)
    assert (document["schema"], document["total"]) == ("acme-milter/plan/1", 2)
    printed = bulk(directory, "plan", "--from", "-", "-o", "-", stdin="USER3@org.example\n# nobody else\n")
    assert [one["address"] for one in json.loads(printed.stdout)["mailboxes"]] == ["user3@org.example"]


def test_a_plan_of_last_week_is_not_run(directory: Path) -> None:
    old = plan_file(directory, made_at=(datetime.now(UTC) - timedelta(days=9)).isoformat())
    ran = bulk(directory, "run", old, "--yes")
    assert ran.exit_code == 1
    assert "was made 9 days ago" in ran.stderr
    assert "bulk plan" in ran.stderr


def test_more_than_one_mailbox_wants_a_yes(directory: Path) -> None:
    ran = bulk(directory, "run", plan_file(directory))
    assert ran.exit_code == 2
    assert "ordering certificates for 2 mailboxes" in ran.stderr
    assert "--yes" in ran.stderr


def test_giving_up_more_than_one_mailbox_wants_a_yes_as_well(directory: Path) -> None:
    now = datetime.now(UTC)
    run = BulkRun(
        id="run-1", kind=Kind.ISSUE, state=RunState.PAUSED, description="", created_at=now, counted_from=now, stopped={}
    )
    waiting = [
        BulkItem(
            run_id="run-1", address=f"user{number}@org.example", position=number, domain="org.example", authority="ca",
            principal=f"staff:{number}", replaces_id=None,
        )
        for number in (2, 3)
    ]  # fmt: skip
    database = Database(f"sqlite:///{directory / 'store.db'}")
    with database.write() as connection:
        bulk_runs.insert(connection, run)
        bulk_items.add_items(connection, waiting)
    database.close()
    asked = bulk(directory, "cancel")
    assert (asked.exit_code, "give up ordering for 2 mailboxes" in asked.stderr) == (2, True), asked.stderr
    assert bulk(directory, "cancel", "--yes").exit_code == 75  # it would, but there is no worker to do it


def test_without_a_worker_nothing_is_run(directory: Path) -> None:
    ran = bulk(directory, "run", plan_file(directory), "--yes")
    assert ran.exit_code == 75
    assert "no worker is listening" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["plan", "--missing", "--expiring", "30d"], 2, "--missing are those without a certificate"),
        (["plan", "--ca", "nobody"], 2, "authorities.nobody is not configured; there is: ca"),
        (["plan", "--domain", "no.example"], 2, "domains.no.example is not configured"),
        (["plan", "--from", "nowhere"], 2, "nowhere: No such file"),
        (["plan", "-o", "no/where.json"], 1, "No such file"),
        (["replace", "--ca", "ca"], 2, "--issued-before DATE, --serials FILE"),
        (["run", "nowhere.json"], 1, "nowhere.json: No such file"),
        (["status"], 1, "there has been no bulk run yet"),
        (["status", "20261122-none"], 1, "there is no run '20261122-none'"),
        (["report"], 1, "there has been no bulk run yet"),
        (["simulate", "--when", "2001-01-01"], 1, "2001-01-01 is over"),
        (["plann"], 2, "did you mean plan?"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(directory: Path, arguments: list[str], code: int, words: str) -> None:
    ran = bulk(directory, *arguments)
    assert ran.exit_code == code, ran.stderr
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_simulation_is_text_or_json(directory: Path) -> None:
    when = (datetime.now(UTC) + timedelta(days=100)).date().isoformat()
    shown = bulk(directory, "simulate", "--when", when, "--ca", "ca")
    assert shown.exit_code == 0, shown.stderr
    assert f"authority ca on {when}: 4 certificates alive" in shown.stdout
    assert "within 24 h: in time" in shown.stdout
    document = json.loads(bulk(directory, "simulate", "--when", when, "--json").stdout)
    assert document["schema"] == "acme-milter/bulk-simulate/1"
    assert document["authorities"][0]["to_replace"] == 4


def test_the_commands_of_the_page_can_be_pasted(directory: Path) -> None:
    (directory / "serials.txt").write_text("1\n0A:0B\n")
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("acme-milter bulk ")]
    assert len(lines) >= 14
    for line in lines:
        _, _, *arguments = shlex.split(line)
        ran = bulk(directory, *arguments)
        assert ran.exit_code in {0, 1, 75}, (line, ran.stderr)  # 1 and 75: there is neither a run nor a worker here
        assert not isinstance(ran.exception, Exception), (line, ran.exception)
