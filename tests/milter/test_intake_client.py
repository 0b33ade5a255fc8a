# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of a candidate, with and without a worker (rule T)."""

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from acme_milter.ipc.server import FrameServer
from acme_milter.lab.processes import wait_until
from acme_milter.milter import intake_client
from acme_milter.milter.intake_client import (
    AT_ONCE,
    DOUBTS_REMEMBERED,
    FORGET_AFTER,
    LONGEST_DOUBT,
    Disposition,
    Doubts,
    IntakeClient,
)
from acme_milter.milter.session import Candidate, Envelope


def candidate(
    subject: bytes = b" ACME: LgYemJLy3F1LDkiJrdIGbEzyFJyOyf6vBdyZ1TG3sME", recipient: str = "alice@org.example"
) -> Candidate:
    return Candidate(Envelope(queue_id="4Vx1"), (recipient,), subject, raw_of(subject, recipient), truncated=False)


def raw_of(subject: bytes, recipient: str = "alice@org.example") -> bytes:
    """A mail that only its DKIM arithmetic could show not to be a challenge."""
    signature = (
        b"v=1; a=rsa-sha256; d=ca.example; s=s; h=from:to:subject; bh=" + b"A" * 43 + b"=; b=" + b"A" * 342 + b"=="
    )
    lines = [
        b"DKIM-Signature: " + signature,
        b"From: acme@ca.example",
        b"To: " + recipient.encode(),
        b"Subject:" + subject.replace(b"\n", b"\r\n"),
        b"Auto-Submitted: auto-generated",
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def workerless(tmp_path: Path, clock: Clock) -> Iterator[IntakeClient]:
    client = IntakeClient(tmp_path / "nobody.sock", 1.0, clock=clock)
    yield client
    client.close()


@pytest.mark.parametrize("disposition", list(Disposition))
def test_the_workers_disposition_is_returned(tmp_path: Path, disposition: Disposition) -> None:
    path = tmp_path / "intake.sock"
    said: dict[str, object] = {"disposition": str(disposition), "reason": "why"}
    with FrameServer(path, 0o600, lambda *_: (said, b""), threads=1):
        client = IntakeClient(path, 2.0)
        answer = client.decide(candidate())
        client.close()
    assert (answer.disposition, answer.reason) == (disposition, "why")


def test_without_a_worker_a_candidate_waits_thirty_minutes_from_its_first_sight_and_is_then_delivered(
    workerless: IntakeClient, clock: Clock
) -> None:
    assert workerless.decide(candidate()).disposition is Disposition.TEMPFAIL
    clock.now = LONGEST_DOUBT
    assert workerless.decide(candidate()).disposition is Disposition.TEMPFAIL
    clock.now = LONGEST_DOUBT + 1
    assert workerless.decide(candidate()).disposition is Disposition.ACCEPT
    assert workerless.decide(candidate(b" ACME: DGyRejmCefe7v4NfDGDKfA")).disposition is Disposition.TEMPFAIL
    assert workerless.decide(candidate(recipient="bob@org.example")).disposition is Disposition.TEMPFAIL


@pytest.mark.parametrize("answer", [{"error": "internal"}, {"disposition": "reject"}, {}, {"disposition": None}])
def test_an_answer_that_says_nothing_is_no_answer(tmp_path: Path, answer: dict[str, object]) -> None:
    path = tmp_path / "intake.sock"
    with FrameServer(path, 0o600, lambda *_: (answer, b""), threads=1):
        client = IntakeClient(path, 2.0)
        assert client.decide(candidate()).disposition is Disposition.TEMPFAIL
        client.close()


def test_a_worker_that_takes_too_long_is_none(tmp_path: Path) -> None:
    path = tmp_path / "intake.sock"
    release = threading.Event()

    def slow(*_: object) -> tuple[dict[str, object], bytes]:
        release.wait(5)
        return {"disposition": "discard"}, b""

    with FrameServer(path, 0o600, slow, threads=1):
        client = IntakeClient(path, 0.2)
        began = time.monotonic()
        assert client.decide(candidate()).disposition is Disposition.TEMPFAIL
        assert time.monotonic() - began < 2
        release.set()
        client.close()


def test_more_candidates_than_places_are_put_off_and_not_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_client, "PLACE_SECONDS", 0.05)
    path = tmp_path / "intake.sock"
    release = threading.Event()

    def slow(*_: object) -> tuple[dict[str, object], bytes]:
        release.wait(10)
        return {"disposition": "accept"}, b""

    with FrameServer(path, 0o600, slow, threads=AT_ONCE):
        client = IntakeClient(path, 20.0)
        threads = [threading.Thread(target=client.decide, args=(candidate(),)) for _ in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        wait_until(lambda: client.asking == AT_ONCE, "all places to be taken")
        assert client.decide(candidate()).disposition is Disposition.TEMPFAIL
        release.set()
        for thread in threads:
            thread.join()
        assert client.asking == 0
        assert client.decide(candidate()).disposition is Disposition.ACCEPT
        client.close()


def test_doubts_take_bounded_memory_and_forget_the_oldest_first(clock: Clock) -> None:
    doubts = Doubts(clock)
    for number in range(DOUBTS_REMEMBERED + 500):
        clock.now = float(number) / 100
        assert doubts.may_wait(candidate(b"%d" % number))
    assert len(doubts) == DOUBTS_REMEMBERED
    clock.now = LONGEST_DOUBT + 200
    assert doubts.may_wait(candidate(b"0"))  # forgotten: its time begins again
    assert not doubts.may_wait(candidate(b"%d" % (DOUBTS_REMEMBERED + 499)))


def test_doubts_are_forgotten_after_a_day(clock: Clock) -> None:
    doubts = Doubts(clock)
    doubts.may_wait(candidate())
    clock.now = FORGET_AFTER + 1
    assert doubts.may_wait(candidate())


def test_what_is_logged_of_a_doubt_has_no_subject_in_it(
    workerless: IntakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "acme_milter")
    workerless.decide(candidate(b" ACME: c2VjcmV0c2VjcmV0c2VjcmV0"))
    assert "challenge-doubt" in caplog.text
    assert "c2VjcmV0" not in caplog.text


@pytest.mark.parametrize(
    ("subject", "recipients"),
    [
        (b" ACME: invoice for November, please pay", ("alice@org.example",)),
        (b" ACME: short", ("alice@org.example",)),
        (b" ACME: Invoice 2026-10-01 is now ready", ("alice@org.example",)),
        (b" ACME: please call me back about the invoice tomorrow", ("alice@org.example",)),
        (b" ACME: LgYemJLy3F1LDkiJrdIGbEzyFJyOyf6vBdyZ1TG3sME", ("alice@org.example", "bob@org.example")),
    ],
)
def test_without_a_worker_mail_that_could_not_be_ours_is_delivered_at_once(
    workerless: IntakeClient, subject: bytes, recipients: tuple[str, ...]
) -> None:
    mail = Candidate(Envelope(queue_id="4Vx1"), recipients, subject, raw_of(subject), truncated=False)
    assert workerless.decide(mail).disposition is Disposition.ACCEPT


def test_a_folded_challenge_waits_as_well(workerless: IntakeClient) -> None:
    folded = candidate(b" ACME:\n LgYemJLy3F1LDkiJrdIGbEzy\n FJyOyf6vBdyZ1TG3sME")
    assert workerless.decide(folded).disposition is Disposition.TEMPFAIL
