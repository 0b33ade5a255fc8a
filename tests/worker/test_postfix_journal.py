# SPDX-License-Identifier: GPL-3.0-or-later
"""What the journal says of a reply: a journal that systemd's own program writes, asked by the real journalctl."""

import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from acme_milter.enrollment.model import State
from acme_milter.store.departures import Departure, Followed
from acme_milter.worker.postfix_log import JOURNAL, JournalFollower
from acme_milter.worker.sighting import Sighting, Unfollowable

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
REPLY = Followed(
    id="r1",
    enrollment_id="e1",
    address="alice@org.example",
    authority="ca",
    state=State.REPLIED,
    envelope_sender="alice@org.example",
    envelope_recipient="acme-7f3a@ca.example",
    message_id="<acme-milter.0123abcd@org.example>",
    queue_id="4Vx1R05jWcz9rV",
    sent_at=NOW,
    departure=None,
    departure_words=None,
)
# As a unit of Debian's is called whose processes write to the journal.
POSTFIX = "postfix@-.service"
SENT = (
    b"4Vx1R05jWcz9rV: to=<acme-7f3a@ca.example>, relay=mx.ca.example[192.0.2.25]:25, delay=0.4, delays=0.1/0/0.2/0.1,"
    b" dsn=2.0.0, status=sent (250 2.0.0 Taken)"
)
DEFERRED = SENT.replace(b"dsn=2.0.0, status=sent (250 2.0.0 Taken)", b"dsn=4.7.1, status=deferred (said: 451 Wait)")

Entry = tuple[timedelta, str, bytes]


class Journal:
    """A journal's file. Entries are (time after NOW, unit, message); `add` rewrites it with all of them."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "system.journal"
        self._entries: list[Entry] = []

    def add(self, *entries: Entry) -> None:
        self._entries += entries
        self._path.unlink(missing_ok=True)
        program = "/lib/systemd/systemd-journal-remote"
        subprocess.run([program, "-o", str(self._path), "-"], input=self._exported(), check=True, capture_output=True)

    def follower(self) -> JournalFollower:
        return JournalFollower((*JOURNAL, "--file", str(self._path)))

    def _exported(self) -> bytes:
        """In journald's export format: the message with its length before it, as any octets may be in it."""
        text = b""
        for number, (after, unit, message) in enumerate(self._entries):
            at = int((NOW + after).timestamp() * 1_000_000) + number
            fields = {
                "__REALTIME_TIMESTAMP": at,
                "__MONOTONIC_TIMESTAMP": number + 1,
                "_BOOT_ID": "1" * 32,
                "_SYSTEMD_UNIT": unit,
                "SYSLOG_IDENTIFIER": "postfix/smtp",
            }
            text += "".join(f"{name}={value}\n" for name, value in fields.items()).encode()
            text += b"MESSAGE\n" + len(message).to_bytes(8, "little") + message + b"\n\n"
        return text


def look(follower: JournalFollower, *, after: timedelta = timedelta(0)) -> Sighting | None:
    return follower.look([REPLY], NOW + after).get(REPLY.id)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def test_what_the_units_of_postfix_log_is_read(journal: Journal) -> None:
    journal.add((seconds(1), POSTFIX, SENT))
    sighting = look(journal.follower())
    assert sighting is not None
    assert (sighting.departure, sighting.words) == (Departure.SENT, "250 2.0.0 Taken")


@pytest.mark.parametrize("unit", ["ssh.service", "user@1000.service", "xpostfix.service"])
def test_what_other_units_log_is_nobodys_word(journal: Journal, unit: str) -> None:
    journal.add((seconds(1), POSTFIX, b"connect from mx.ca.example[192.0.2.25]"), (seconds(2), unit, SENT))
    assert look(journal.follower()) is None


def test_what_was_logged_before_the_reply_is_not_about_it(journal: Journal) -> None:
    journal.add((seconds(-60), POSTFIX, SENT), (seconds(1), POSTFIX, b"connect from mx.ca.example[192.0.2.25]"))
    assert look(journal.follower()) is None


def test_what_comes_between_two_looks_is_read_at_the_second(journal: Journal) -> None:
    journal.add((seconds(1), POSTFIX, DEFERRED))
    follower = journal.follower()
    first = look(follower, after=seconds(2))
    journal.add((seconds(3), POSTFIX, SENT))
    second = look(follower, after=seconds(4))
    assert first is not None
    assert second is not None
    assert (first.departure, second.departure) == (Departure.DEFERRED, Departure.SENT)


@pytest.mark.parametrize("odd", [b"\xff\xfe not text", b"two\nlines", b"\x1b[31mred", b"x" * 100_000, b""])
def test_a_message_that_is_no_line_of_text_hides_no_other(journal: Journal, odd: bytes) -> None:
    journal.add((seconds(1), POSTFIX, odd), (seconds(2), POSTFIX, SENT))
    sighting = look(journal.follower())
    assert sighting is not None
    assert sighting.departure is Departure.SENT


def test_a_journal_in_which_postfix_never_logged_says_where_to_look(journal: Journal) -> None:
    journal.add((seconds(1), "ssh.service", b"hello"))
    with pytest.raises(Unfollowable, match="nothing of Postfix is in the journal: does it log to a file"):
        look(journal.follower())


def as_journalctl(directory: Path, script: str) -> Sequence[str]:
    """A program in journalctl's place, for what the real one would not do here."""
    path = directory / "journalctl"
    path.write_text(f'#!/bin/sh\necho "$@" >> {directory}/asked\n{script}\n')
    path.chmod(0o700)
    return [str(path), *JOURNAL[1:]]


def test_the_journal_is_asked_for_what_is_new_with_an_overlap(tmp_path: Path) -> None:
    follower = JournalFollower(as_journalctl(tmp_path, "true"))
    look(follower, after=seconds(60))
    look(follower, after=seconds(62))
    asked = [line.split("--since ")[1] for line in (tmp_path / "asked").read_text().splitlines()]
    assert asked == [f"@{int(NOW.timestamp()) - 5}", f"@{int(NOW.timestamp()) + 55}"]


def test_a_journal_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    script = "echo 'No journal files were opened due to insufficient permissions.' >&2; exit 1"
    with pytest.raises(Unfollowable, match=r"insufficient permissions\.\Z"):
        look(JournalFollower(as_journalctl(tmp_path, script)))
