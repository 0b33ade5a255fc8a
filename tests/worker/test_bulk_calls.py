# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run makes of a plan that is older than the world: second looks, limits, two runs at once."""

from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from acme_milter.store import enrollments
from acme_milter.store.bulk_items import Outcome
from acme_milter.store.bulk_runs import RunState
from acme_milter.store.schema import mailbox
from acme_milter.worker.bulk_feeder import ABANDONED
from tests.worker.bulk_desk import BRANCH, NOW, ORG, Desk, configured, count, set_mailbox


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"left_at": NOW}, "the mailbox left on 2026-11-22"),
        ({"missing_since": NOW}, "source staff does not list it since 2026-11-22"),
        ({"principal": "staff:99"}, "the mailbox was given to another person since the plan was made"),
    ],
)
def test_a_mailbox_that_changed_since_the_plan_is_skipped_and_says_why(
    desk: Desk, values: dict[str, object], reason: str
) -> None:
    desk.open(ORG[:2])
    set_mailbox(desk, ORG[0], **values)
    assert desk.feed() == {ORG[0]: "skipped", ORG[1]: "open"}
    assert desk.reason(ORG[0]) == reason


def test_a_mailbox_that_is_gone_altogether_is_skipped(desk: Desk) -> None:
    desk.open(ORG[:2])
    with desk.database.write() as connection:
        connection.execute(sa.delete(mailbox).where(mailbox.c.address == ORG[0]))
    assert desk.feed() == {ORG[0]: "skipped", ORG[1]: "open"}
    assert desk.reason(ORG[0]) == "is not a managed mailbox any more"


def test_mailboxes_that_a_starting_worker_does_not_know_yet_wait(desk: Desk, tmp_path: Path) -> None:
    desk.open(ORG[:2])
    starting = Desk(desk.database, lambda: configured(tmp_path, desk.database, started=False), desk.now)
    assert starting.config().member(ORG[0]) is None
    assert starting.feed() == dict.fromkeys(ORG[:2], "waiting")
    assert desk.feed() == dict.fromkeys(ORG[:2], "open")


def test_a_policy_that_changed_since_the_plan_is_not_guessed_over(desk: Desk, tmp_path: Path) -> None:
    desk.open(BRANCH[:1], authority="ca")
    assert desk.feed() == {BRANCH[0]: "skipped"}
    assert desk.reason(BRANCH[0]) == "its policy names authority other now, the plan ca; make a new plan"
    watching = Desk(desk.database, lambda: configured(tmp_path, desk.database, mode="observe"), desk.now)
    watching.open(BRANCH[:1], run="run-2")
    watching.feed()
    assert watching.reason(BRANCH[0], "run-2") == "mode: observe answers no challenge"


def test_an_authority_that_is_not_configured_any_more_ends_its_items(desk: Desk) -> None:
    desk.open(ORG[:1], authority="gone")
    assert desk.feed() == {ORG[0]: "skipped"}
    assert desk.reason(ORG[0]) == "authority gone is not configured any more"
    assert desk.state() is RunState.DONE


def test_nobody_gets_two_certificates_or_two_orders(desk: Desk) -> None:
    with desk.database.write() as connection:
        enrollments.open_new(connection, address=ORG[0], authority="ca", now=NOW)
    desk.open(["user0@org.example", ORG[0]])
    desk.feed()
    assert desk.reason("user0@org.example") == "has a valid certificate already"
    assert desk.reason(ORG[0]) == "an order is open already"


def test_a_mailbox_is_in_one_run_at_a_time(desk: Desk) -> None:
    desk.open(ORG[:2])
    desk.open(ORG[1:3], run="run-2")
    assert desk.outcomes("run-2") == {ORG[1]: "skipped", ORG[2]: "waiting"}
    assert desk.reason(ORG[1], "run-2") == "is in run run-1 already"
    desk.call("cancel", run="run-1")
    desk.open(ORG[:1], run="run-3")
    assert desk.outcomes("run-3") == {ORG[0]: "waiting"}


def test_a_limit_takes_the_first_that_can_be_ordered(desk: Desk) -> None:
    answer = desk.open(["user0@org.example", *ORG], limit=2)
    assert answer == {"run": "run-1", "taken": 2, "passed_over": {"has a valid certificate already": 1}}
    assert desk.outcomes() == dict.fromkeys(ORG[:2], "waiting")


def test_a_plan_that_was_sent_in_part_is_not_begun_and_forgotten_in_the_end(desk: Desk) -> None:
    desk.open(ORG, last=False)
    assert count(desk.feed(), Outcome.WAITING) == len(ORG)
    desk.advance(ABANDONED + timedelta(seconds=1))
    assert desk.feed() == {}
    assert desk.state() is None


def test_a_part_that_is_sent_twice_counts_once(desk: Desk) -> None:
    for last in (False, False, True, True):
        answer = desk.open(ORG[:2], last=last)
    assert answer["taken"] == 2


@pytest.mark.parametrize(
    ("call", "arguments", "words"),
    [
        ("resume", {}, "no bulk run is open"),
        ("pause", {"run": "nothing"}, "there is no run 'nothing'"),
        ("open", {"run": "../etc", "items": []}, "no plan that can be run"),
    ],
)
def test_what_cannot_be_done_is_said(desk: Desk, call: str, arguments: dict[str, object], words: str) -> None:
    answer = desk.call(call, **arguments)
    assert answer["error"] == "refused"
    assert words in str(answer["text"])
