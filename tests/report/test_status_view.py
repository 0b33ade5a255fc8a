# SPDX-License-Identifier: GPL-3.0-or-later
"""The view `status`: what is counted, what needs a person, and that no history is read for it."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from acme_milter.enrollment.lost_account import in_words
from acme_milter.enrollment.model import State
from acme_milter.report.authority_show import authority_show
from acme_milter.report.member import with_sourced
from acme_milter.report.status import status
from acme_milter.store import (
    authority_health,
    deliveries,
    delivery_lists,
    enrollments,
    holds,
    overview,
    pauses,
    source_runs,
    timeline,
)
from acme_milter.store.authority_health import Health
from acme_milter.store.schema import account
from acme_milter.store.schema import delivery as table
from acme_milter.worker.view_call import ViewCall
from tests.report.story import DAY, NOW, Story, configuration

ALICE = "alice@org.example"
BOB = "bob@org.example"
ERIN = "erin@staff.example"
FRED = "fred@staff.example"


def view(story: Story, directory: Path, **args: object) -> dict[str, Any]:
    with story.database.read() as connection:
        return status(connection, with_sourced(connection, configuration(directory)), NOW, **args)  # type: ignore[arg-type]  # a view's keywords


def test_each_mailbox_is_counted_once_by_what_explains_the_most(story: Story, tmp_path: Path) -> None:
    story.ordered(ALICE, State.ACTIVE, ends=300 * DAY)
    story.ordered(ALICE, State.FAILED)
    story.ordered(BOB, State.ACTIVE, ends=-DAY)
    story.ordered(BOB, State.FAILED, last_error="no")
    story.arrived(ERIN)
    story.ordered(ERIN, State.FAILED)
    story.ordered(ERIN, State.AWAITING_MAIL)
    story.arrived(FRED, missing_since=NOW - DAY)
    story.ordered("gone@staff.example", State.ACTIVE, ends=300 * DAY)
    rows = {row["domain"]: row for row in view(story, tmp_path)["coverage"]["domains"]}
    names = ("managed", "with_certificate", "open", "failed", "without", "gone")
    assert [rows["org.example"][name] for name in names] == [2, 1, 0, 1, 0, 0]
    assert [rows["staff.example"][name] for name in names] == [2, 0, 1, 0, 1, 1]


def test_what_needs_a_person_comes_with_its_command(story: Story, tmp_path: Path) -> None:
    story.ordered(ALICE, State.ACTIVE, ends=3 * DAY)
    story.ordered(BOB, State.FAILED)
    with story.database.write() as connection:
        holds.ask(connection, "leavers:staff", "400 have left", NOW)
        pauses.pause(connection, "ca", "operator", NOW, None)
        source_runs.failed(connection, "staff", NOW, "no such file")
    found = {need["kind"]: need["command"] for need in view(story, tmp_path)["needs_you"]}
    assert found == {
        "hold": "acme-milter hold release leavers:staff",
        "authority": "acme-milter authority resume ca",
        "source": "acme-milter mailbox sync --source staff --dry-run",
        "failed": "acme-milter mailbox list --state failed",
        "expiring": "acme-milter report expiring --within 7d",
    }


def test_an_exchange_of_keys_that_fails_needs_a_person_and_one_that_goes_on_does_not(
    story: Story, tmp_path: Path
) -> None:
    story.exchanges_its_key()
    assert view(story, tmp_path)["needs_you"] == []
    with story.database.write() as connection:
        connection.execute(account.update().values(last_error="connection refused"))
    (need,) = view(story, tmp_path)["needs_you"]
    assert need["command"] == "acme-milter authority rollover ca"
    assert "nothing begins with ca before its account's next key is in use" in need["text"]
    assert "connection refused" in need["text"]


@pytest.mark.parametrize("hours", [0, 2])
def test_an_authority_that_has_lost_our_account_needs_a_person_at_once(
    story: Story, tmp_path: Path, hours: int
) -> None:
    words = in_words("ca", "", "accountDoesNotExist 400")
    since = NOW - timedelta(hours=hours)
    with story.database.write() as connection:
        authority_health.put(connection, Health(authority="ca", failures=5, open_since=since, last_error=words))
    (need,) = view(story, tmp_path)["needs_you"]
    assert words in need["text"]
    with story.database.read() as connection:
        shown = authority_show(connection, configuration(tmp_path), NOW, "ca")
    assert shown["health"]["last_error"] == words  # type: ignore[index]  # a view's document


def test_how_long_an_order_took_does_not_grow_with_what_becomes_of_its_certificate(
    story: Story, tmp_path: Path
) -> None:
    opened = NOW - DAY - timedelta(seconds=6.1)
    story.ordered(ALICE, State.REVOKED, ends=DAY, opened_at=opened, state_since=NOW)
    story.ordered(BOB, State.AWAITING_MAIL, opened_at=opened, state_since=NOW)
    rows = {row["address"]: row["seconds"] for row in view(story, tmp_path)["mailboxes"]}
    assert rows == {ALICE: 6.1, BOB: 86406.1}


def test_one_is_not_told_of_as_if_it_were_several(story: Story, tmp_path: Path) -> None:
    story.ordered(ALICE, State.ACTIVE, ends=3 * DAY)
    story.ordered(BOB, State.FAILED)
    with story.database.write() as connection:
        for target, going in (("stuck", None), ("gone", "the mailbox has left")):
            failed(connection, of(connection, ALICE), target, going)
        deliveries.ask(connection, of(connection, ALICE), ALICE, {"tried": "hook"}, NOW)
        tried = table.c.target == "tried"
        connection.execute(table.update().where(tried).values(attempts=delivery_lists.TROUBLE, last_error="away"))
    assert [need["text"] for need in view(story, tmp_path)["needs_you"]] == [
        "1 delivery has failed and waits for a person",
        "1 delivery that should be taken back is still there, and waits for a person",
        "1 delivery fails again and again, and is still tried",
        "1 mailbox has no certificate because its order failed",
        "1 certificate expires within 7 days",
    ]


def of(connection: sa.Connection, address: str) -> str:
    """The id of its certificate."""
    (line,) = timeline.certificates_of(connection, address)
    return line.id


def failed(connection: sa.Connection, certificate_id: str, target: str, withdraw_why: str | None) -> None:
    deliveries.ask(connection, certificate_id, ALICE, {target: "hook"}, NOW)
    values = {"next_attempt_at": None, "last_error": "no", "withdraw_why": withdraw_why}
    connection.execute(table.update().where(table.c.target == target).values(**values))


def test_many_mailboxes_are_listed_only_when_asked_for(story: Story, tmp_path: Path) -> None:
    for number in range(60):
        story.arrived(f"m{number}@staff.example")
    assert "mailboxes" not in view(story, tmp_path)
    assert len(view(story, tmp_path, every=True)["never_enrolled"]) == 62
    assert view(story, tmp_path, addresses=[ALICE])["never_enrolled"] == [ALICE]


def test_who_was_here_before_is_listed_only_with_everybody(story: Story, tmp_path: Path) -> None:
    story.ordered(ALICE, State.ACTIVE)
    story.ordered("formerly@left.example", State.ACTIVE)
    assert [row["address"] for row in view(story, tmp_path)["mailboxes"]] == [ALICE]
    assert len(view(story, tmp_path, every=True)["mailboxes"]) == 2


def test_nothing_of_it_walks_through_the_history(story: Story, tmp_path: Path) -> None:
    asked: list[tuple[str, Any]] = []
    with story.database.read() as connection:
        config = with_sourced(connection, configuration(tmp_path))
        sa.event.listen(
            connection, "before_cursor_execute", lambda _c, _cursor, words, values, *_: asked.append((words, values))
        )
        status(connection, config, NOW, addresses=[ALICE])
        statements = tuple(asked)
        assert len(statements) > 10
        for words, values in statements:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {words}", values).all()
            for step in (str(row[3]) for row in plan):
                walks = step.startswith(("SCAN enrollment", "SCAN certificate", "SCAN audit", "SCAN outbox"))
                # What is active, open or on its way now is no history: an index holds just that.
                now = ("ix_enrollment_active", "uq_enrollment_open", "ix_outbox_followed")
                assert not walks or any(index in step for index in now), (step, words)


def test_more_ids_than_a_statement_can_hold_are_no_trouble(story: Story) -> None:
    ids = [story.ordered(ALICE, State.ACTIVE), *(f"nobody-{number}" for number in range(40_000))]
    with story.database.read() as connection:
        assert [row.id for row in overview.of_enrollments(connection, ids)] == ids[:1]
        found = overview.latest_of_each_mailbox(connection, [ALICE, *ids])
        assert [row.address for row in found] == [ALICE]
        assert enrollments.get(connection, ids[0]) is not None


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({"view": "no-such"}, "unknown-view"),
        ({"view": "status", "args": {"newer": 1}}, "unknown-view"),
        ({"view": "why", "args": {"address": "nonsense"}}, "unanswerable"),
    ],
)
def test_the_worker_says_why_it_has_no_document(
    story: Story, tmp_path: Path, request_: dict[str, object], error: str
) -> None:
    config = configuration(tmp_path)
    call = ViewCall(config=lambda: config, database=story.database, clock=lambda: NOW)
    assert call.answer(request_)["error"] == error


def test_what_no_frame_holds_is_too_large_for_the_worker(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration(tmp_path)
    call = ViewCall(config=lambda: config, database=story.database, clock=lambda: NOW)
    size = len(json.dumps(call.answer({"view": "status"})["view"], separators=(",", ":")))
    monkeypatch.setattr("acme_milter.worker.view_call.LARGEST", size - 1)
    assert call.answer({"view": "status"}) == {"error": "too-large"}
