# SPDX-License-Identifier: GPL-3.0-or-later
"""The timeline tells what the audit trail notes in words, and nothing twice; a certificate's view tells of its key."""

from pathlib import Path
from typing import Any

import pytest

from acme_milter.enrollment.model import State
from acme_milter.eventlog import Event
from acme_milter.report.certificate_list import certificate_show
from acme_milter.report.mailbox_timeline import mailbox_timeline
from acme_milter.store import audit, certificates, timeline
from acme_milter.store.schema import mailbox_key as key_table
from acme_milter.worker.custody import destroy
from tests.report.story import DAY, NOW, Story, configuration
from tests.worker.test_mailbox_keeping import Keeping

ALICE = "alice@org.example"


def lines(it: Keeping, name: str) -> list[tuple[str, str]]:
    with it.database.read() as connection:
        found: dict[str, Any] = mailbox_timeline(
            connection, it.standing.current(), it.clock.now(), address=f"{name}@org.example"
        )
    return [(entry["event"], entry["text"]) for entry in found["timeline"]]


@pytest.fixture
def it(tmp_path: Path) -> Any:
    keeping = Keeping(tmp_path)
    yield keeping
    keeping.database.close()


def test_who_is_missing_and_leaves_and_comes_back_is_told_once_each_time(it: Keeping) -> None:
    people = [f"p{number}" for number in range(20)]
    it.settle(people)
    first = ("first-seen", "first seen in the source hr")
    absent, gone = "not in the source hr any more", "counted as gone"
    it.look(people[1:])
    assert lines(it, "p0") == [first, ("missing", absent)]
    it.look(people)
    it.look(people[1:])
    past = [first, ("mailbox-missing", absent), ("mailbox-returned", "in the source hr again")]
    assert lines(it, "p0") == [*past, ("missing", absent)]
    it.clock.ahead += 14 * DAY
    it.look()
    it.look()
    assert lines(it, "p0") == [*past, ("missing", absent), ("left", gone)]
    it.look(people)
    again = ("mailbox-rejoined", "in the source hr again, after it had counted as gone")
    assert lines(it, "p0") == [*past[1:], ("mailbox-missing", absent), ("mailbox-left", gone), again]


def test_who_follows_another_person_is_told_once(it: Keeping) -> None:
    people = {f"p{number}": f"id-{number}" for number in range(20)}
    it.settle(list(people))
    it.look({f"p{number}": f"id-p{number}" for number in range(1, 20)} | {"p0": "somebody-else"})
    assert lines(it, "p0") == [("mailbox-reassigned", "another person's from now on, says the source hr")]


@pytest.mark.parametrize(
    ("event", "details", "words"),
    [
        (Event.CERTIFICATE_EXPIRED, {}, "certificate expired"),
        (
            Event.CERTIFICATE_EXPORTED,
            {"format": "pem", "serial": "ab", "uid": 0},
            "ab exported as pem by the user with uid 0",
        ),
        (Event.CERTIFICATE_IMPORTED, {"serial": "ab", "in_use": False}, "certificate ab imported, not in use"),
        (
            Event.CERTIFICATE_REFUSED,
            {"reason": "other key", "chain": "PEM"},
            "certificate not taken from the authority: other key",
        ),
        (
            Event.ENROLLMENT_MOVED,
            {"from": "a", "to": "b", "why": "a is paused"},
            "order moved from a to b: a is paused",
        ),
        (
            Event.KEY_BROUGHT,
            {"usage": "sign", "algorithm": "p256"},
            "certificate request brought (key p256, to sign)",
        ),
        (
            Event.PASSPHRASE_SHOWN,
            {"target": "files", "serial": "ab", "uid": None},
            "passphrase of ab at files shown to an unknown user",
        ),
        ("of-a-later-version", {"what": 1, "chain": "PEM"}, "of-a-later-version what=1"),
    ],
)
def test_what_is_noted_is_told_in_words(
    story: Story, tmp_path: Path, event: str, details: dict[str, object], words: str
) -> None:
    with story.database.write() as connection:
        audit.record(connection, event, at=NOW, address=ALICE, details=details)
        found: dict[str, Any] = mailbox_timeline(connection, configuration(tmp_path), NOW, address=ALICE)
    assert [entry["text"] for entry in found["timeline"]] == [words]


def test_a_key_that_was_destroyed_is_told_in_the_timeline_and_with_the_certificate(
    story: Story, tmp_path: Path
) -> None:
    story.ordered(ALICE, State.ACTIVE, ends=DAY)
    config = configuration(tmp_path)
    with story.database.write() as connection:
        (line,) = timeline.certificates_of(connection, ALICE)
        assert certificate_show(connection, config, NOW, wanted=ALICE)["key_not_here"] is None
        destroy(connection, certificates.get(connection, line.id), NOW, "it was exported")
        told: dict[str, Any] = mailbox_timeline(connection, config, NOW, address=ALICE)
        shown = certificate_show(connection, config, NOW, wanted=ALICE)
        assert f"key of {line.serial} destroyed here: it was exported" in [one["text"] for one in told["timeline"]]
        assert "the key was destroyed on 2026-11-22" in str(shown["key_not_here"])
        assert shown["key_destroyed_at"] == NOW.isoformat()
        connection.execute(key_table.update().values(destroyed_at=None))
        shown = certificate_show(connection, config, NOW, wanted=ALICE)
    assert ("never here" in str(shown["key_not_here"]), shown["key_destroyed_at"]) == (True, None)
