# SPDX-License-Identifier: GPL-3.0-or-later
"""`deliver`: what it lists, has done and shows, with and without a worker; and every command of docs/delivery.md."""

import json
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from acme_milter.cli.main import cli
from acme_milter.report.mailbox_timeline import mailbox_timeline
from acme_milter.report.status import status
from acme_milter.store import mailbox_keys, revocations, timeline
from tests.delivery.depot import ALICE, BOB, Depot

HOOK = {"to": "hook", "argv": ["/bin/sh", "-c", "echo in the webmail of $ACME_MILTER_LOCAL"]}
REFUSING = {"to": "hook", "name": "refusing", "argv": ["/bin/sh", "-c", "echo no such user >&2; exit 67"]}
AWAY = {"to": "hook", "name": "away", "argv": ["/bin/sh", "-c", "echo not now >&2; exit 75"]}
PAGE = Path(__file__).parents[2] / "docs" / "delivery.md"


@contextmanager
def settled() -> Iterator[Depot]:
    """Three targets for alice: one takes it, one refuses, one is away; bob has no certificate."""
    with Depot([HOOK, REFUSING, AWAY]) as depot:
        depot.now = datetime.now(UTC)
        depot.issue()
        depot.settle(depot.delivering())
        yield depot


@pytest.fixture
def depot() -> Iterator[Depot]:
    """To do something with."""
    with settled() as depot:
        yield depot


@pytest.fixture(scope="module")
def seen() -> Iterator[Depot]:
    """To look at."""
    with settled() as depot:
        yield depot


def run(depot: Depot, *words: str, given: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["--config", str(depot.config_path), *words], input=given)


def document(depot: Depot, *words: str) -> dict[str, Any]:
    done = run(depot, *words, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def states(depot: Depot, *words: str) -> dict[str, str]:
    return {row["target"]: row["state"] for row in document(depot, "deliver", "list", *words)["deliveries"]}


def test_the_list_shows_what_is_undone_and_of_given_mailboxes_everything(seen: Depot) -> None:
    assert states(seen) == {"refusing": "failed", "away": "retrying"}
    assert states(seen, ALICE.upper()) == {"hook": "done", "refusing": "failed", "away": "retrying"}
    assert states(seen, BOB) == {}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--failed"], {"refusing"}),
        (["--state", "failed"], {"refusing"}),
        (["--state", "retrying"], {"away"}),
        (["--state", "done"], {"hook"}),
        (["--state", "all", "--target", "hook"], {"hook"}),
        (["--state", "ended"], set()),
        (["--domain", "org.example"], {"refusing", "away"}),
    ],
)
def test_the_list_is_narrowed_by_conditions(seen: Depot, words: list[str], found: set[str]) -> None:
    assert set(states(seen, *words)) == found


def test_an_unknown_domain_is_told_with_those_there_are(seen: Depot) -> None:
    done = run(seen, "deliver", "list", "--domain", "nowhere.example")
    assert done.exit_code == 1
    assert "there are: org.example" in done.stderr


def test_a_row_says_where_it_is_or_in_the_other_sides_words_why_not(seen: Depot) -> None:
    said = run(seen, "deliver", "list", ALICE)
    assert "in the webmail of alice" in said.stdout
    assert "/bin/sh: exit status 67: no such user" in said.stdout
    assert re.search(r"exit status 75: not now; next attempt at \d{4}-\d\d-\d\d ", said.stdout)
    assert "acme-milter deliver retry --all-failed" in said.stderr


def test_retry_has_failed_ones_tried_again_and_nobody_elses(depot: Depot) -> None:
    depot.listen()
    result = run(depot, "deliver", "retry", ALICE, "--target", "refusing")
    assert (result.exit_code, result.stdout) == (0, f"{ALICE}: tried again now: refusing\n")
    assert states(depot) == {"refusing": "waiting", "away": "retrying"}
    result = run(depot, "deliver", "retry", "--all-failed")
    assert (result.exit_code, result.stdout) == (0, f"{ALICE}: tried again now: away\n")
    assert states(depot) == {"refusing": "waiting", "away": "waiting"}
    result = run(depot, "deliver", "retry", "--all-failed")
    assert (result.exit_code, result.stderr) == (0, "there is nothing to do\n")


def test_run_delivers_what_a_changed_policy_lacks(depot: Depot) -> None:
    depot.listen()
    assert "nothing is missing" in run(depot, "deliver", "run", ALICE, "--target", "hook").stdout
    depot.configure([HOOK, {**HOOK, "name": "archive"}])
    assert run(depot, "deliver", "run", "--missing", "--target", "nothing").stderr == "there is nothing to do\n"
    result = run(depot, "deliver", "run", "--missing", "--domain", "org.example")
    assert (result.exit_code, result.stdout) == (0, f"{ALICE}: on its way to archive\n")
    assert document(depot, "deliver", "run", "--missing")["results"] == []
    result = run(depot, "deliver", "run", "-", "--again", given=f"{ALICE}\n# nobody\n")
    assert result.stdout == f"{ALICE}: on its way to hook\n"


def test_run_names_what_is_on_its_way_what_has_failed_and_whose_key_is_gone(depot: Depot) -> None:
    depot.listen()
    result = run(depot, "deliver", "run", ALICE, "--again", "--target", "away")
    assert (result.exit_code, result.stdout) == (
        0, f"{ALICE}: on its way to away already; look with: acme-milter deliver list {ALICE}\n",
    )  # fmt: skip
    result = run(depot, "deliver", "run", ALICE, "--again", "--target", "refusing")
    assert result.exit_code == 0
    assert f"refusing; why: acme-milter deliver list {ALICE}" in result.stdout
    assert f"acme-milter deliver retry {ALICE}" in result.stdout
    with depot.database.write() as connection:
        (line,) = timeline.certificates_of(connection, ALICE)
        mailbox_keys.destroy(connection, line.key_id, depot.now)
    depot.configure([HOOK, {**HOOK, "name": "public", "formats": []}])
    result = run(depot, "deliver", "run", ALICE, "--again")
    why = f"the key was destroyed on {depot.now:%Y-%m-%d}, once it was given out (custody: deliver_once)"
    assert (result.exit_code, result.stdout) == (0, f"{ALICE}: on its way to public; not to hook: {why}\n")
    result = run(depot, "deliver", "run", ALICE, "--again", "--target", "hook")
    assert (result.exit_code, f"acme-milter cert renew {ALICE}" in result.stderr) == (1, True)
    assert f"\nno private key: {why}\n" in run(depot, "cert", "show", ALICE).stdout


def test_run_for_more_than_one_mailbox_is_asked_for_twice(depot: Depot) -> None:
    depot.listen()
    depot.issue(BOB, planned=False)
    depot.configure([{**HOOK, "name": "archive"}])
    result = run(depot, "deliver", "run", "--missing")
    assert (result.exit_code, "deliver the certificates of 2 mailboxes" in result.stderr) == (2, True)
    assert "--yes" in result.stderr
    assert run(depot, "deliver", "run", "--missing", "--yes").exit_code == 0


def test_who_has_nothing_to_deliver_is_told_the_next_command(depot: Depot) -> None:
    depot.listen()
    result = run(depot, "deliver", "run", ALICE, BOB, "nobody@org.example", "--yes")
    assert result.exit_code == 3
    assert f"acme-milter enroll {BOB}" in result.stderr
    assert "acme-milter mailbox why nobody@org.example" in result.stderr
    assert run(depot, "deliver", "run", BOB).exit_code == 1


@pytest.mark.parametrize(
    "words",
    [
        ["run"],
        ["run", ALICE, "--missing"],
        ["run", "--missing", "--again"],
        ["run", ALICE, "--domain", "org.example"],
        ["retry"],
        ["retry", ALICE, "--all-failed"],
        ["withdraw"],
        ["withdraw", "--target", "hook"],
        ["withdraw", ALICE, "--gone"],
        ["withdraw", ALICE, "--domain", "org.example"],
        ["withdraw", "--gone", "--by-hand"],
    ],
)
def test_who_is_meant_has_to_be_said_and_only_once(words: list[str]) -> None:
    assert CliRunner().invoke(cli, ["deliver", *words]).exit_code == 2


def test_passphrases_are_shown_and_each_time_is_in_the_timeline(depot: Depot) -> None:
    depot.listen()
    depot.configure([{"to": "files", "path": f"{depot.directory}/out/{{local}}", "formats": ["p12-modern"]}])
    (depot.directory / "out").mkdir(mode=0o700)
    run(depot, "deliver", "run", ALICE)
    depot.settle(depot.delivering())
    (file,) = (depot.directory / "out").rglob("*.p12")
    result = run(depot, "deliver", "passphrase", ALICE)
    assert result.exit_code == 0
    found = re.fullmatch(r"files p12-modern: ([0-9A-HJKMNP-TV-Z]{26})\n", result.stdout)
    assert found is not None
    assert found[1].encode() not in file.read_bytes()
    (row,) = document(depot, "deliver", "passphrase", ALICE, "--target", "files")["passphrases"]
    assert (row["passphrase"], row["shown_at"] is None) == (found[1], False)
    with depot.database.read() as connection:
        told = mailbox_timeline(connection, depot.config, depot.now, address=ALICE)
    timeline = told["timeline"]
    assert isinstance(timeline, list)
    shown = [entry["text"] for entry in timeline if entry["event"] == "passphrase-shown"]
    assert len(shown) == 2
    assert re.fullmatch(rf"passphrase of [0-9a-f]+ at files shown to the user with uid {os.getuid()}", shown[0])
    assert found[1] not in json.dumps(timeline)


def test_a_mailbox_without_a_kept_passphrase_is_told_where_to_look(depot: Depot) -> None:
    depot.listen()
    result = run(depot, "deliver", "passphrase", ALICE)
    assert result.exit_code == 1
    assert f"acme-milter deliver list {ALICE}" in result.stderr
    result = run(depot, "deliver", "passphrase", "nobody@org.example")
    assert (result.exit_code, "not a managed mailbox" in result.stderr) == (1, True)


def test_without_a_worker_nothing_is_done_and_the_list_is_shown(seen: Depot) -> None:
    assert states(seen)
    for words in (["run", ALICE], ["retry", ALICE], ["withdraw", ALICE], ["passphrase", ALICE]):
        done = run(seen, "deliver", *words)
        assert (done.exit_code, "no worker is listening" in done.stderr) == (75, True)


def test_status_counts_what_is_undone_and_asks_for_a_person(seen: Depot) -> None:
    with seen.database.read() as connection:
        found: dict[str, Any] = status(connection, seen.config, seen.now)
    assert found["deliveries"] == {"waiting": 0, "retrying": 1, "failed": 1}
    (need,) = [need for need in found["needs_you"] if need["kind"] == "delivery"]
    assert need["command"] == "acme-milter deliver list --state failed"
    assert "deliveries: retrying 1, failed 1" in run(seen, "status").stdout


def test_the_timeline_tells_each_delivery_once(seen: Depot) -> None:
    with seen.database.read() as connection:
        told: dict[str, Any] = mailbox_timeline(connection, seen.config, seen.now, address=ALICE)
    lines = {entry["event"]: entry for entry in told["timeline"] if entry["event"].startswith("delivery-")}
    assert set(lines) == {"delivery-done", "delivery-failed", "delivery-again"}
    assert lines["delivery-done"]["text"].endswith("to hook: in the webmail of alice")
    assert "waits for a person: /bin/sh: exit status 67" in lines["delivery-failed"]["text"]
    assert lines["delivery-again"]["planned"]


def test_what_is_taken_back_is_listed_counted_and_told_until_a_person_has_looked(depot: Depot) -> None:
    depot.listen()
    result = run(depot, "deliver", "withdraw", ALICE, "--target", "hook")
    assert (result.exit_code, result.stdout) == (0, f"{ALICE}: being taken back from hook\n")
    assert "being taken back from hook already" in run(depot, "deliver", "withdraw", ALICE, "--target", "hook").stdout
    assert "from hook: acme-milter deliver list" in run(depot, "mailbox", "why", ALICE).stdout
    depot.settle(depot.delivering())
    (row,) = document(depot, "deliver", "list", "--state", "withdrawing")["deliveries"]
    assert (row["state"], row["withdraw_why"], row["outcome"]) == (
        "failed",
        "a person said so",
        "in the webmail of alice",
    )
    said = run(depot, "deliver", "list").stdout
    assert re.search(r"to be taken back \(a person said so\): .*; still there: in the webmail of alice", said)
    with depot.database.read() as connection:
        found: dict[str, Any] = status(connection, depot.config, depot.now)
    assert found["withdrawals"] == {"waiting": 0, "retrying": 0, "failed": 1}
    assert {need["kind"] for need in found["needs_you"]} >= {"withdrawal", "delivery"}
    assert "withdrawals: failed 1" in run(depot, "status").stdout
    result = run(depot, "deliver", "withdraw", ALICE, "--target", "hook", "--by-hand")
    assert (result.exit_code, result.stdout) == (0, f"{ALICE}: noted as removed by hand from hook\n")
    assert states(depot, "--state", "withdrawn") == {"hook": "withdrawn"}
    assert "removed by hand, as a person said (a person said so)" in run(depot, "deliver", "list", ALICE).stdout
    with depot.database.read() as connection:
        told: dict[str, Any] = mailbox_timeline(connection, depot.config, depot.now, address=ALICE)
    lines = {entry["event"]: entry["text"] for entry in told["timeline"] if "hook" in entry["text"]}
    assert set(lines) == {"delivery-done", "withdrawal-asked", "delivery-withdrawn"}
    assert "from hook to be taken back: a person said so" in lines["withdrawal-asked"]


def test_what_nobody_uses_any_more_is_taken_back_everywhere_by_one_command(depot: Depot) -> None:
    depot.listen()
    hook = {**HOOK, "withdraw_argv": ["/bin/sh", "-c", "echo out of the webmail of $ACME_MILTER_LOCAL"]}
    depot.configure([hook])
    bobs = depot.issue(BOB)
    depot.settle(depot.delivering())
    with depot.database.write() as connection:
        revocations.ask(connection, bobs, 1, depot.now, by="before")
    assert run(depot, "deliver", "withdraw", "--gone", "--domain", "org.example", "--target", "none").stdout == ""
    result = run(depot, "deliver", "withdraw", "--gone")
    assert (result.exit_code, result.stdout) == (0, f"{BOB}: being taken back from hook\n")
    depot.settle(depot.delivering())
    (row,) = document(depot, "deliver", "list", "--state", "withdrawn")["deliveries"]
    assert (row["address"], row["outcome"]) == (BOB, "out of the webmail of bob")
    assert document(depot, "deliver", "withdraw", "--gone")["results"] == []
    assert document(depot, "deliver", "run", "--missing")["results"] == []


def test_the_commands_of_the_page_can_be_pasted(depot: Depot) -> None:
    depot.listen()
    depot.configure([HOOK, {"to": "files", "path": f"{depot.directory}/out/{{local}}", "formats": ["p12-modern"]}])
    (depot.directory / "out").mkdir(mode=0o700)
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) >= 7
    delivering = depot.delivering()
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "acme-milter"
        done = run(depot, *words[1:])
        assert done.exit_code == 0, (line, done.output)
        depot.settle(delivering)
