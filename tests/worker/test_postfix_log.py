# SPDX-License-Identifier: GPL-3.0-or-later
"""What Postfix's log says of a reply: lines as Postfix 3.7 writes them, in files that are rotated under the reader."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from acme_milter.enrollment.model import State
from acme_milter.store.departures import Departure, Followed
from acme_milter.worker.postfix_log import MAX_LINE, LogFollower, LogTrail
from acme_milter.worker.sighting import Unfollowable

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
CA = "acme-7f3a@ca.example"
MESSAGE_ID = "<acme-milter.0123abcd@org.example>"
REPLY = Followed(
    id="r1",
    enrollment_id="e1",
    address="alice@org.example",
    authority="ca",
    state=State.REPLIED,
    envelope_sender="alice@org.example",
    envelope_recipient=CA,
    message_id=MESSAGE_ID,
    queue_id="4Vx1R05jWcz9rV",
    sent_at=NOW,
    departure=None,
    departure_words=None,
)
REMOTE = "mx.ca.example[192.0.2.25]:25"
FILTER = "127.0.0.1[127.0.0.1]:10024"


def line(status: str, words: str, *, queue_id: str = "4Vx1R05jWcz9rV", to: str = CA, relay: str = REMOTE) -> bytes:
    dsn = {"sent": "2.0.0", "deferred": "4.7.1", "bounced": "5.7.26"}[status]
    return (
        f"Nov 22 09:00:01 mx postfix/smtp[4711]: {queue_id}: to=<{to}>, relay={relay}, delay=0.4, "
        f"delays=0.1/0/0.2/0.1, dsn={dsn}, status={status} ({words})"
    ).encode()


def seen(*lines: bytes, reply: Followed = REPLY) -> tuple[Departure, str | None] | None:
    trail = LogTrail()
    trail.read(lines)
    sighting = trail.sighting(reply)
    return None if sighting is None else (sighting.departure, sighting.words)


GREYLISTED = "host mx.ca.example[192.0.2.25] said: 451 4.7.1 Greylisted (in reply to end of DATA command)"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("sent", "250 2.0.0 Taken"),
        ("deferred", GREYLISTED),
        ("bounced", "host mx.ca.example[192.0.2.25] said: 550 5.7.26 not authenticated (in reply to RCPT TO command)"),
    ],
)
def test_each_outcome_comes_with_the_other_sides_words(status: str, words: str) -> None:
    assert seen(line(status, words)) == (Departure(status), words)


def test_the_journal_has_the_same_lines_without_their_beginning() -> None:
    trail = LogTrail(prefixed=False)
    trail.read([line("sent", "250 2.0.0 Taken").partition(b"]: ")[2]])
    sighting = trail.sighting(REPLY)
    assert sighting is not None
    assert (sighting.departure, sighting.words) == (Departure.SENT, "250 2.0.0 Taken")


@pytest.mark.parametrize(
    "beginning",
    [
        "Nov  2 09:00:01 mx postfix/smtp[4711]: ",
        "2026-11-22T09:00:01.123456+00:00 mx postfix/smtp[4711]: ",
        "2026-11-22T09:00:01Z mx.org.example postfix-out/relay/smtp[4711]: ",
        "<22>Nov 22 09:00:01 192.0.2.1 mail.info postfix/lmtp[4711]: ",
        "Nov 22 09:00:01 mx postfix/reply/pipe[4711]: ",
    ],
)
def test_a_delivery_program_of_postfix_is_known_by_how_the_line_begins(beginning: str) -> None:
    said = line("sent", "250 OK").partition(b"]: ")[2]
    assert seen(beginning.encode() + said) == (Departure.SENT, "250 OK")


@pytest.mark.parametrize(
    "beginning",
    [
        "",
        "Nov 22 09:00:01 mx alice: ",
        "Nov 22 09:00:01 mx alice[4711]: ",
        "Nov 22 09:00:01 mx postfix[4711]: ",
        "Nov 22 09:00:01 mx postfix/smtpd[4711]: ",
        "Nov 22 09:00:01 mx myprogram/smtp[4711]: ",
        "Nov 22 09:00:01 mx alice: Nov 22 09:00:01 mx postfix/smtp[4711]: ",
        "Nov 22 09:00:01 mx postfix/smtp[4711]: warning: ",
    ],
)
@pytest.mark.parametrize(
    "said",
    [
        line("sent", "250 OK").partition(b"]: ")[2],
        b"4Vx1R05jWcz9rV: from=<alice@org.example>, status=expired, returned to sender",
    ],
)
def test_what_another_program_says_is_nobodys_word(beginning: str, said: bytes) -> None:
    assert seen(beginning.encode() + said) is None


def test_an_outcome_in_the_other_sides_words_is_not_postfixs() -> None:
    words = "host mx.ca.example[192.0.2.25] said: 451 later, status=sent (250 OK) (in reply to end of DATA command)"
    assert seen(line("deferred", words)) == (Departure.DEFERRED, words)


def test_a_line_longer_than_postfix_writes_says_nothing() -> None:
    assert seen(line("sent", "250 " + "x" * (MAX_LINE // 2))) is not None
    assert seen(line("sent", "250 " + "x" * MAX_LINE)) is None


_POSTFIX = b"Nov 22 09:00:01 mx postfix/smtp[1]: "
_FULL = _POSTFIX + b"4Vx1R05jWcz9rV: to=<a@b>, relay=x, delay=1, dsn=2, status=sent ("


@pytest.mark.parametrize(
    ("beginning", "again"),
    [
        (b"", b"AAAAAA: to=<>, relay=x, status=a (b) "),
        (_POSTFIX, b"AAAAAA: to=<>, relay=x, status=a (b) "),
        (_POSTFIX + b"AAAAAA: to=<", b">, orig_to=<>, relay=x, status="),
        (_POSTFIX + b"AAAAAA: from=<", b">, status=expired from=<"),
        (_FULL[:-6], b"status=sent ("),
        (_FULL, b"queued as AAAAA "),
        (_FULL.replace(b"relay=x", b"relay=" + b"[" * 40), b"[status="),
        (b"Nov 22 09:00:01 mx postfix", b"/postfix status="),
        (_POSTFIX + b"AAAAAA: message-id=", b"<acme-milter.status="),
    ],
)
def test_what_a_line_costs_grows_as_its_length_whatever_is_in_it(beginning: bytes, again: bytes) -> None:
    def cost(size: int) -> float:
        hostile = (beginning + again * size)[:size]
        took = []
        for _ in range(5):
            begun = time.thread_time()
            LogTrail().read([hostile] * 20)
            took.append(time.thread_time() - begun)
        return min(took)

    # Four times as long: four times the cost, or sixteen if it were the square; with 8 kB it is not read at all.
    cost(512)
    assert cost(MAX_LINE) < 12 * cost(MAX_LINE // 4)
    assert cost(2 * MAX_LINE) < 4 * cost(MAX_LINE)


def test_what_was_deferred_and_then_sent_is_sent() -> None:
    assert seen(line("deferred", GREYLISTED), line("sent", "250 OK")) == (Departure.SENT, "250 OK")


def test_lines_of_another_message_say_nothing() -> None:
    assert seen(line("bounced", "no", queue_id="4Vx1R05jWcz9rX")) is None


def test_a_queue_id_that_was_another_messages_before_says_nothing() -> None:
    assert seen(line("bounced", "no such user", to="somebody@elsewhere.example")) is None


def test_a_recipient_that_was_rewritten_is_known_by_what_it_was() -> None:
    rewritten = line("sent", "250 OK", to=f"x@relay.example>, orig_to=<{CA}")
    assert seen(rewritten) == (Departure.SENT, "250 OK")


def test_a_filters_taking_is_no_departure_and_the_new_queue_id_is_followed() -> None:
    handed = line("sent", "250 2.0.0 Ok: queued as 4Vx1R23abcz9rW", relay=FILTER)
    assert seen(handed) is None
    back = line("deferred", GREYLISTED, queue_id="4Vx1R23abcz9rW")
    assert seen(handed, back) == (Departure.DEFERRED, GREYLISTED)
    amavis = "250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 4Vx1R23abcz9rW"
    assert seen(line("sent", amavis, relay=FILTER), back) == (Departure.DEFERRED, GREYLISTED)


def test_the_filters_mail_may_be_gone_before_its_taking_is_logged() -> None:
    gone = line("sent", "250 Taken", queue_id="4Vx1R23abcz9rW")
    handed = line("sent", "250 2.0.0 Ok: queued as 4Vx1R23abcz9rW", relay=FILTER)
    assert seen(gone, handed) == (Departure.SENT, "250 Taken")


def test_a_filter_that_is_a_program_is_followed_by_the_message_id() -> None:
    handed = line("sent", "delivered via filter service", relay="filter")
    assert seen(handed) is None
    again = f"Nov 22 09:00:01 mx postfix/cleanup[9]: 4Vx1R99abcz9rZ: message-id={MESSAGE_ID}".encode()
    sent = line("sent", "250 Taken", queue_id="4Vx1R99abcz9rZ")
    assert seen(handed, again, sent) == (Departure.SENT, "250 Taken")


def test_a_relay_elsewhere_that_queues_it_has_it() -> None:
    words = "250 2.0.0 Ok: queued as 4Vx1R23abcz9rW"
    assert seen(line("sent", words, relay="smarthost.example[192.0.2.9]:587")) == (Departure.SENT, words)


def test_an_authority_on_this_machine_that_names_no_queue_id_has_it() -> None:
    assert seen(line("sent", "250 2.0.0 Taken", relay="127.0.0.1[127.0.0.1]:2525")) == (
        Departure.SENT,
        "250 2.0.0 Taken",
    )


def test_what_has_expired_in_the_queue_is_bounced_with_the_last_reason() -> None:
    said = b"4Vx1R05jWcz9rV: from=<alice@org.example>, status=expired, returned to sender"
    expired = b"Nov 22 09:00:02 mx postfix/qmgr[3]: " + said
    found = seen(line("deferred", GREYLISTED), expired)
    assert found is not None
    assert found[0] is Departure.BOUNCED
    assert GREYLISTED in (found[1] or "")


def test_a_line_cannot_break_ours() -> None:
    found = seen(line("deferred", "said: 451 \x1b[31mred\x1b[0m " + "x" * 2000))
    assert found is not None
    assert (found[1] or "").isprintable()
    assert len(found[1] or "") <= 300


class Log:
    """A log file and its follower."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "mail.log"
        self.path.write_bytes(b"Nov 22 09:00:00 mx postfix/master[1]: started\n")
        self.follower = LogFollower(self.path)

    def add(self, octets: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(octets)

    def look(self) -> Departure | None:
        found = self.follower.look([REPLY], NOW).get(REPLY.id)
        return None if found is None else found.departure


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def test_a_log_is_read_on_and_a_line_in_the_making_is_waited_for(log: Log) -> None:
    assert log.look() is None
    whole = line("sent", "250 OK") + b"\n"
    log.add(whole[:90])
    assert log.look() is None
    log.add(whole[90:])
    assert log.look() is Departure.SENT
    log.follower.close()


def test_a_log_that_is_rotated_is_read_to_its_end_and_then_the_new_one(log: Log) -> None:
    log.look()
    log.add(line("deferred", GREYLISTED) + b"\n")
    log.path.rename(log.path.with_suffix(".log.1"))
    log.path.write_bytes(b"")
    assert log.look() is Departure.DEFERRED
    log.add(line("sent", "250 OK") + b"\n")
    assert log.look() is Departure.SENT
    log.follower.close()


def test_a_log_that_is_copied_away_and_cut_is_read_from_its_beginning(log: Log) -> None:
    log.look()
    log.path.write_bytes(b"")
    log.look()
    log.add(line("sent", "250 OK") + b"\n")
    assert log.look() is Departure.SENT
    log.follower.close()


def test_the_end_of_a_long_log_is_enough(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acme_milter.worker.postfix_log.FIRST_READ", 600)
    log.add(line("bounced", "long ago") + b"\n" + b"x" * 599 + b"\n")
    assert log.look() is None
    log.follower.close()


def test_a_log_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unfollowable, match=r"nowhere\.log: No such file"):
        LogFollower(tmp_path / "nowhere.log").look([REPLY], NOW)
