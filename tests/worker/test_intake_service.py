# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker's two sockets, as the milter and the command line speak to them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from acme_milter.config.member import Member
from acme_milter.enrollment.model import State
from acme_milter.ipc.client import FrameClient
from acme_milter.ipc.server import FrameServer
from acme_milter.store import enrollments
from acme_milter.worker.control import Control
from acme_milter.worker.enrolling import Enrolling
from acme_milter.worker.intake_service import IntakeService
from acme_milter.worker.standing_config import StandingConfig
from tests.protocol.sample_mail import RECIPIENT, SENDER, good_mail
from tests.worker.conftest import MakeBench
from tests.worker.intake_bench import OTHER_MAILBOX, IntakeBench

CANDIDATE: dict[str, object] = {
    "call": "candidate",
    "queue_id": "4Q",
    "sender": SENDER,
    "recipients": [RECIPIENT],
    "client_name": "ca.example",
    "client_address": "192.0.2.1",
    "auth": False,
    "daemon": "smtpd",
}


def speak_to(bench: IntakeBench, directory: Path) -> Iterator[FrameClient]:
    faults: list[Exception] = []
    service = IntakeService(lambda: bench.config, bench.intake, wait_while=StandingConfig(bench.config).wait_while)
    server = FrameServer(directory / "intake.sock", 0o660, service.handle, threads=4, on_error=faults.append)
    server.start()
    with FrameClient(directory / "intake.sock", timeout=10) as client:
        yield client
    server.stop()
    assert faults == []


@pytest.fixture
def intake(bench: IntakeBench, tmp_path: Path) -> Iterator[FrameClient]:
    yield from speak_to(bench, tmp_path)


def test_a_candidate_is_decided_over_the_socket(intake: FrameClient) -> None:
    raw = good_mail().signed()
    assert intake.call(CANDIDATE, raw) == ({"disposition": "discard", "reason": "accepted"}, b"")
    assert intake.call(CANDIDATE, raw) == ({"disposition": "discard", "reason": "answered-already"}, b"")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"auth": True}, "not-from-outside"),
        ({"recipients": [RECIPIENT, OTHER_MAILBOX]}, "several-recipients"),
        ({"recipients": []}, "not-managed"),
        ({"recipients": None}, "not-managed"),
        ({"truncated": True}, "too-large"),
    ],
)
def test_what_the_milter_says_of_the_transaction_counts(
    intake: FrameClient, change: dict[str, object], reason: str
) -> None:
    answer, _ = intake.call({**CANDIDATE, **change}, good_mail().signed())
    assert answer == {"disposition": "accept", "reason": reason}


@pytest.mark.parametrize(
    "header",
    [
        {"call": "candidate"},
        {"call": "candidate", "recipients": "x", "queue_id": 5, "sender": ["y"]},
        {"call": "candidate", "recipients": [None, 5, {"a": 1}]},
        {"call": "candidate", "recipients": 5},
        {"call": "candidate", "recipients": {"a": 1}},
    ],
    ids=range(5),
)
def test_a_nonsensical_candidate_is_nobodys_challenge(intake: FrameClient, header: dict[str, object]) -> None:
    answer, _ = intake.call(header, b"\0" * 100)
    assert answer.get("disposition", "accept") == "accept"


def test_an_unknown_call_is_told_apart(intake: FrameClient) -> None:
    assert intake.call({"call": "stop"}) == ({"error": "unknown call"}, b"")


def test_the_managed_mailboxes_come_in_lower_case_and_only_when_they_changed(
    make_bench: MakeBench, tmp_path: Path
) -> None:
    bench = make_bench(mailboxes=("Alexey@example.com", "bob@bücher.example"))
    speaking = speak_to(bench, tmp_path)
    client = next(speaking)
    answer, body = client.call({"call": "managed", "known": None})
    assert sorted(body.split(b"\n")) == [b"alexey@example.com", b"bob@xn--bcher-kva.example"]
    version = answer["version"]
    assert client.call({"call": "managed", "known": version}) == ({"version": version, "unchanged": True}, b"")
    bench._mailboxes = ("carol@example.com",)
    bench.configure()
    answer, body = client.call({"call": "managed", "known": version})
    assert (answer["version"] != version, body) == (True, b"carol@example.com")
    assert next(speaking, None) is None


def test_a_milter_that_waits_is_answered_as_soon_as_there_is_a_new_mailbox(bench: IntakeBench) -> None:
    standing = StandingConfig(bench.config)
    service = IntakeService(standing.current, bench.intake, wait_while=standing.wait_while)
    version = service.handle({"call": "managed", "known": None, "wait": 60}, b"")[0]["version"]
    question: dict[str, object] = {"call": "managed", "known": version, "wait": 60}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(service.handle, question, b"")
        assert not waiting.done()
        standing.replace_members([Member(address="new@example.com", principal="staff:7", source="staff")])
        answer, body = waiting.result()
        assert (answer["waited"], answer["version"] != version) == (True, True)
        assert b"new@example.com" in body.split(b"\n")
        waiting = pool.submit(service.handle, question | {"known": answer["version"]}, b"")
        standing.stop_waiting()
        assert waiting.result()[0] == {"version": answer["version"], "unchanged": True, "waited": True}


def test_very_many_mailboxes_come_in_pages(make_bench: MakeBench, tmp_path: Path) -> None:
    mailboxes = tuple(f"a-rather-long-local-part-of-a-mailbox-{number}@example.com" for number in range(25000))
    bench = make_bench(mailboxes=mailboxes)
    speaking = speak_to(bench, tmp_path)
    client = next(speaking)
    answer, body = client.call({"call": "managed", "known": None})
    pages = [body]
    assert isinstance(answer["pages"], int)
    assert answer["pages"] > 1
    for page in range(1, answer["pages"]):
        more, body = client.call({"call": "managed", "known": None, "page": page})
        assert more["version"] == answer["version"]
        pages.append(body)
    assert sorted(b"\n".join(pages).decode().split("\n")) == sorted(mailboxes)
    assert next(speaking, None) is None


@pytest.fixture
def control(bench: IntakeBench) -> Control:
    enrolling = Enrolling(
        config=lambda: bench.config, database=bench.database, clock=bench.clock, work_is_due=lambda: woken.append(1)
    )
    return Control({"enroll": enrolling.answer})


woken: list[int] = []


def enroll(control: Control, *addresses: str, **more: object) -> list[tuple[str, str]]:
    answer, _ = control.handle({"call": "enroll", "addresses": list(addresses), **more}, b"")
    results = answer["results"]
    assert isinstance(results, list)
    return [(one["address"], one["outcome"]) for one in results]


def test_enrolling_opens_one_enrollment_for_each_managed_mailbox(bench: IntakeBench, control: Control) -> None:
    woken.clear()
    wanted = (OTHER_MAILBOX.upper(), OTHER_MAILBOX, RECIPIENT, "carol@example.com", "nonsense")
    assert enroll(control, *wanted) == [
        (OTHER_MAILBOX, "opened"),
        (OTHER_MAILBOX, "already-open"),
        (RECIPIENT, "already-open"),
        ("carol@example.com", "not-managed"),
        ("nonsense", "not-managed"),
    ]
    assert woken == [1]
    with bench.database.read() as connection:
        (opened,) = enrollments.of_mailbox(connection, OTHER_MAILBOX)
    assert (opened.state, opened.authority, opened.generation) == (State.PLANNED, "ca", 1)


def test_a_mailbox_with_a_certificate_is_enrolled_again_only_when_asked(bench: IntakeBench, control: Control) -> None:
    with bench.database.read() as connection:
        (found,) = enrollments.of_mailbox(connection, RECIPIENT)
    bench.set_state(found, State.ACTIVE)
    assert enroll(control, RECIPIENT) == [(RECIPIENT, "already-active")]
    assert enroll(control, RECIPIENT, again=True) == [(RECIPIENT, "opened")]


def test_the_command_line_is_told_what_it_asks_wrongly(control: Control) -> None:
    assert control.handle({"call": "ping"}, b"") == ({"ok": True}, b"")
    assert control.handle({"call": "frobnicate"}, b"") == ({"error": "unknown call"}, b"")
    assert enroll(control) == []
