# SPDX-License-Identifier: GPL-3.0-or-later
"""Deliveries: each until it is there or over, none in another's way, the newest certificate last."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest
import sqlalchemy as sa

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.config.delivery import HookTarget, TargetCommon
from acme_milter.config.loader import load_text
from acme_milter.config.member import Member
from acme_milter.delivery.target import Delivered, DeliveryFailed, Gone, Parcel, Target
from acme_milter.enrollment.model import State
from acme_milter.eventlog import Event
from acme_milter.ipc.client import FrameClient
from acme_milter.ipc.server import PEER_UID
from acme_milter.keys.client import KeydClient
from acme_milter.lab.processes import wait_until
from acme_milter.store import deliveries, delivery_lists, mailbox_keys, mailboxes, revocations, timeline
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.deliveries import DeliveryState
from acme_milter.store.schema import mailbox_key as key_table
from acme_milter.store.schema import passphrase as passphrase_table
from acme_milter.worker import delivering as delivering_module
from acme_milter.worker.delivering import THREADS_EACH, Delivering
from acme_milter.worker.delivery_keys import KeydFiles
from tests.delivery.depot import ALICE, BOB, Depot
from tests.test_program import is_alive

HOOK = {"to": "hook", "argv": ["/bin/true"]}
OTHER = {**HOOK, "name": "other"}


class Shelf:
    """A target that takes what comes, or does what it is told instead."""

    def __init__(self) -> None:
        self.taken: list[Parcel] = []
        self.gone: list[Gone] = []
        self.faults: list[Exception] = []
        self.passphrases: dict[str, str] = {}
        self.at_once = 0
        self.most: dict[str, int] = {}
        self._lock = threading.Lock()
        self._under_way: dict[str, int] = {}

    def deliver(self, parcel: Parcel) -> Delivered:
        with self._lock:
            under_way = self._under_way[parcel.address] = self._under_way.get(parcel.address, 0) + 1
            self.most[parcel.address] = max(self.most.get(parcel.address, 0), under_way)
        try:
            if self.faults:
                raise self.faults.pop(0)
            self.taken.append(parcel)
            return Delivered(outcome=f"on the shelf {len(self.taken)}", passphrases=self.passphrases)
        finally:
            with self._lock:
                self._under_way[parcel.address] -= 1

    def withdraw(self, gone: Gone) -> str:
        if self.faults:
            raise self.faults.pop(0)
        self.gone.append(gone)
        return f"off the shelf {len(self.gone)}"

    def serials(self) -> list[str]:
        return [parcel.serial for parcel in self.taken]


class Gate:
    """A target that holds everybody until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.waiting: list[Parcel] = []

    def deliver(self, parcel: Parcel) -> Delivered:
        self.waiting.append(parcel)
        self.open.wait()
        return Delivered(outcome="through the gate")

    def withdraw(self, gone: Gone) -> str:
        self.open.wait()
        return "back through the gate"


class MakeDepot(Protocol):
    def __call__(self, *deliver: dict[str, Any], **more: Any) -> Depot: ...


@pytest.fixture
def make_depot() -> Iterator[MakeDepot]:
    with ExitStack() as stack:
        yield lambda *deliver, **more: stack.enter_context(Depot(deliver or (HOOK,), **more))


@pytest.fixture
def depot(make_depot: MakeDepot) -> Depot:
    return make_depot()


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Opened at the end, so that no thread outlives its test."""
    gate = Gate()
    yield gate
    gate.open.set()


def noted(depot: Depot, *events: Event) -> list[tuple[str, Any]]:
    with depot.database.read() as connection:
        notes = timeline.noted(connection, ALICE, 100)
    return [(note.event, note.details.get("target")) for note in notes if note.event in events]


def test_a_certificate_is_brought_to_its_target_and_where_it_is_stands_in_its_row(depot: Depot) -> None:
    shelf, certificate = Shelf(), depot.issue()
    depot.settle(depot.delivering(shelf))
    (parcel,) = shelf.taken
    assert (parcel.serial, parcel.address, parcel.chain_pem) == (
        certificate.serial,
        ALICE,
        certificate.chain_pem,
    )
    row = depot.row(certificate)
    assert (row.state, row.outcome, row.last_error) == (DeliveryState.DONE, "on the shelf 1", None)
    assert noted(depot, Event.DELIVERY_BEGUN, Event.DELIVERY_DONE) == [
        ("delivery-begun", "hook"),
        ("delivery-done", "hook"),
    ]


def test_each_target_of_the_policy_has_a_job_of_its_own(make_depot: MakeDepot) -> None:
    depot, shelf = make_depot(HOOK, OTHER), Shelf()
    certificate = depot.issue()
    shelf.faults = [DeliveryFailed("no", permanent=True)]
    delivering = depot.delivering(shelf)
    delivering.work_off("hook")
    delivering.work_off("other")
    assert depot.row(certificate).state is DeliveryState.FAILED
    assert depot.row(certificate, "other").state is DeliveryState.DONE


def test_what_a_target_could_not_take_is_tried_again_later_and_later(depot: Depot) -> None:
    shelf, certificate = Shelf(), depot.issue()
    shelf.faults = [DeliveryFailed("the other side is full"), DeliveryFailed("still full")]
    delivering, pauses = depot.delivering(shelf), []
    for _ in range(2):
        delivering.work_off("hook")
        row = depot.row(certificate)
        assert row.next_attempt_at is not None
        pauses.append(row.next_attempt_at - depot.now)
        assert row.state is DeliveryState.RETRYING
        depot.now = row.next_attempt_at
    assert (row.last_error, row.attempts) == ("still full", 2)
    assert timedelta(0) < pauses[0] <= timedelta(seconds=1) <= pauses[1] <= timedelta(seconds=2)
    delivering.work_off("hook")
    row = depot.row(certificate)
    assert (row.state, row.attempts) == (DeliveryState.DONE, 3)


def test_what_needs_a_person_waits_for_one(depot: Depot) -> None:
    shelf, certificate = Shelf(), depot.issue()
    shelf.faults = [DeliveryFailed("no such user", permanent=True)]
    delivering = depot.delivering(shelf)
    delivering.work_off("hook")
    depot.advance(days=30)
    delivering.work_off("hook")
    assert (depot.row(certificate).state, shelf.taken) == (DeliveryState.FAILED, [])
    (result,) = result_of(depot.calls.retry({"addresses": [ALICE]}))
    assert (result["outcome"], result["targets"]) == ("retrying", ["hook"])
    delivering.work_off("hook")
    assert depot.row(certificate).state is DeliveryState.DONE
    (result,) = result_of(depot.calls.retry({"addresses": [ALICE]}))
    assert result["outcome"] == "nothing-failed"


def result_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = answer["results"]
    return results


def test_a_mistake_of_ours_holds_up_one_job_and_tells_nothing_secret(depot: Depot) -> None:
    shelf, certificate, bobs = Shelf(), depot.issue(), depot.issue(BOB)
    shelf.faults = [ValueError("s3cret")]
    depot.delivering(shelf).work_off("hook")
    assert depot.row(certificate).last_error == "internal error (ValueError); the worker's log has the place"
    assert depot.row(bobs).state is DeliveryState.DONE


def leave(depot: Depot, certificate: StoredCertificate) -> None:
    depot.configure([HOOK], [BOB])


def lose_domain(depot: Depot, certificate: StoredCertificate) -> None:
    text = depot.config_path.read_text().replace("org.example:", "other.example:").replace("@org.", "@other.")
    depot.config = load_text(text, depot.config_path)


def pass_on(depot: Depot, certificate: StoredCertificate) -> None:
    depot.config = depot.config.with_members([Member(address=ALICE, principal="staff:2", source="list")])


def ask_for_revocation(depot: Depot, certificate: StoredCertificate) -> None:
    with depot.database.write() as connection:
        revocations.ask(connection, certificate, 1, depot.now, by="operator")


@pytest.mark.parametrize(
    ("happens", "why"),
    [
        (leave, "the mailbox is not managed any more"),
        (lose_domain, "the domain org.example is not configured any more"),
        (pass_on, "the mailbox is another person's now"),
        (lambda depot, one: depot.set_state(one, State.SUPERSEDED), "a newer certificate took its place"),
        (lambda depot, one: depot.set_state(one, State.REVOKED), "the certificate was revoked before its turn"),
        (ask_for_revocation, "its revocation was asked for before its turn"),
        (lambda depot, _: depot.advance(days=400), "the certificate expired before its turn"),
        (lambda depot, _: depot.configure([OTHER]), "the mailbox's policy has no target hook any more"),
    ],
)
def test_what_nobody_wants_any_more_ends_with_the_reason(
    depot: Depot, happens: Callable[[Depot, StoredCertificate], None], why: str
) -> None:
    shelf, certificate = Shelf(), depot.issue()
    happens(depot, certificate)
    depot.delivering(shelf).work_off("hook")
    row = depot.row(certificate)
    assert (row.state, shelf.taken) == (DeliveryState.ENDED, [])
    assert why in (row.last_error or "")


def test_certificates_of_one_mailbox_go_one_at_a_time_and_the_newest_last(depot: Depot) -> None:
    shelf = Shelf()
    issued = [depot.issue().serial for _ in range(6)]
    bobs = depot.issue(BOB).serial
    delivering = depot.delivering(shelf)
    depot.settle(delivering)
    assert [serial for serial in shelf.serials() if serial != bobs] == issued
    assert shelf.most == {ALICE: 1, BOB: 1}


def test_a_newer_one_waits_for_an_older_one_that_is_tried_again(depot: Depot) -> None:
    shelf = Shelf()
    older, newer = depot.issue(), depot.issue()
    shelf.faults = [DeliveryFailed("away")]
    delivering = depot.delivering(shelf)
    delivering.work_off("hook")
    assert (shelf.taken, depot.row(newer).state) == ([], DeliveryState.WAITING)
    depot.advance(minutes=1)
    delivering.work_off("hook")
    assert shelf.serials() == [older.serial, newer.serial]


def test_an_older_one_never_takes_the_place_of_a_newer_one(depot: Depot) -> None:
    shelf = Shelf()
    older, newer = depot.issue(), depot.issue()
    shelf.faults = [DeliveryFailed("no", permanent=True)]
    delivering = depot.delivering(shelf)
    delivering.work_off("hook")
    assert shelf.serials() == [newer.serial]
    depot.calls.retry({"addresses": [ALICE]})
    delivering.work_off("hook")
    assert shelf.serials() == [newer.serial]
    assert depot.row(older).last_error == "a newer certificate is there already"


def test_one_for_signing_and_one_for_encrypting_are_both_delivered_and_know_of_each_other(depot: Depot) -> None:
    shelf = Shelf()
    signs, encrypts = depot.issue(usage=KeyUsageKind.SIGN), depot.issue(usage=KeyUsageKind.ENCRYPT)
    depot.settle(depot.delivering(shelf))
    assert [(parcel.usage, parcel.beside) for parcel in shelf.taken] == [
        (KeyUsageKind.SIGN, (encrypts.chain_pem,)),
        (KeyUsageKind.ENCRYPT, (signs.chain_pem,)),
    ]


def test_a_staging_certificate_is_never_delivered(depot: Depot) -> None:
    depot.issue(authority="ca:staging")
    assert depot.rows() == []
    (result,) = result_of(depot.calls.run({"addresses": [ALICE]}))
    assert result["outcome"] == "no-certificate"


def test_a_target_that_hangs_holds_up_no_other_and_takes_up_so_many_threads_at_most(
    make_depot: MakeDepot, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivering_module, "POLITE", 0.0)
    names = [f"user{number}@org.example" for number in range(2 * THREADS_EACH)]
    depot, shelf = make_depot(HOOK, OTHER, mailboxes=names), Shelf()
    for name in names:
        depot.issue(name)
    targets: dict[str, Target] = {"hook": gate, "other": shelf}
    delivering = depot.delivering(lambda section: targets[section.title])

    def done() -> bool:
        delivering.work()
        return len(shelf.taken) == len(names) and len(gate.waiting) == THREADS_EACH

    wait_until(done, "the other target to have everything")
    for _ in range(5):
        delivering.work()
    assert len(gate.waiting) == THREADS_EACH


def test_one_that_cannot_be_ended_is_told_and_tried_by_nobody_else_meanwhile(
    depot: Depot, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivering_module, "GRACE", -60.0)
    monkeypatch.setattr(delivering_module, "POLITE", 0.0)
    certificate = depot.issue()
    delivering = depot.delivering(gate)
    delivering.work()

    def told() -> bool:
        delivering.work()
        return depot.row(certificate).last_error is not None

    wait_until(told, "its row to tell")
    assert "has not ended after 30 s" in (depot.row(certificate).last_error or "")
    shelf = Shelf()
    depot.delivering(shelf, owner="elsewhere#1").work_off("hook")
    assert shelf.taken == []
    gate.open.set()
    wait_until(lambda: depot.row(certificate).state is DeliveryState.DONE, "it to end after all")


def test_what_a_dead_worker_had_begun_is_free_for_its_successor_at_once_and_for_others_in_time(
    depot: Depot,
) -> None:
    certificate, shelf = depot.issue(), Shelf()
    with depot.database.write() as connection:
        until = depot.now + timedelta(minutes=5)
        assert deliveries.claim(connection, "hook", owner="depot#0.7", now=depot.now, until=until) is not None
    elsewhere = depot.delivering(shelf, owner="elsewhere#1")
    elsewhere.start()
    elsewhere.work_off("hook")
    assert shelf.taken == []
    successor = depot.delivering(shelf, owner="depot#2")
    successor.start()
    successor.work_off("hook")
    assert shelf.serials() == [certificate.serial]


def test_two_workers_never_have_the_same_job_and_whose_lease_ended_writes_nothing(depot: Depot) -> None:
    certificate = depot.issue()
    now = depot.now
    with depot.database.write() as connection:
        mine = deliveries.claim(connection, "hook", owner="one#1.0", now=now, until=now + timedelta(minutes=5))
        assert mine is not None
        assert deliveries.claim(connection, "hook", owner="two#1.0", now=now, until=now) is None
        later = now + timedelta(minutes=6)
        assert deliveries.claim(connection, "hook", owner="two#1.0", now=later, until=later) is not None
        assert not deliveries.done(connection, mine.id, "there", later, owner="one#1.0")
        assert deliveries.failed(connection, mine.id, "away", None, owner="two#1.0")
    assert depot.row(certificate).state is DeliveryState.FAILED


def test_passphrases_lie_sealed_until_somebody_asks_who_is_noted(depot: Depot) -> None:
    shelf, secret = Shelf(), "S3CRETPASSPHRASE0123456789"
    shelf.passphrases = {"p12-modern": secret}
    depot.issue()
    depot.delivering(shelf).work_off("hook")
    with depot.database.read() as connection:
        (row,) = connection.execute(passphrase_table.select()).all()
    assert (secret.encode() in row.sealed, row.shown_at) == (False, None)
    answer: dict[str, Any] = depot.calls.passphrase({"address": ALICE.upper()})
    (shown,) = answer["passphrases"]
    assert (shown["passphrase"], shown["format"], shown["target"]) == (secret, "p12-modern", "hook")
    assert noted(depot, Event.PASSPHRASE_SHOWN) == [("passphrase-shown", "hook")]
    assert secret.encode() not in (depot.directory / "store.db").read_bytes()


def test_who_was_shown_a_passphrase_is_noted_as_the_kernel_says_not_as_he_does(depot: Depot) -> None:
    shelf = Shelf()
    shelf.passphrases = {"p12-modern": "SECRET"}
    depot.issue()
    depot.delivering(shelf).work_off("hook")
    depot.listen()
    with FrameClient(depot.config.worker.control_socket, 10) as client:
        client.call({"call": "passphrase", "address": ALICE, "uid": 4711, PEER_UID: 4711})
    with depot.database.read() as connection:
        notes = timeline.noted(connection, ALICE, 100)
    (shown,) = [note.details for note in notes if note.event == Event.PASSPHRASE_SHOWN]
    assert shown["uid"] == os.getuid()


def test_a_file_that_is_made_anew_has_the_new_passphrase_only(depot: Depot) -> None:
    shelf = Shelf()
    depot.issue()
    delivering = depot.delivering(shelf)
    for secret in ("FIRST", "SECOND"):
        shelf.passphrases = {"p12-modern": secret}
        depot.calls.run({"addresses": [ALICE], "again": True})
        delivering.work_off("hook")
    answer: dict[str, Any] = depot.calls.passphrase({"address": ALICE})
    assert [one["passphrase"] for one in answer["passphrases"]] == ["SECOND"]


def test_what_a_predecessor_had_is_shown_to_nobody(depot: Depot) -> None:
    shelf = Shelf()
    shelf.passphrases = {"p12-modern": "SECRET"}
    certificate = depot.issue()
    depot.delivering(shelf).work_off("hook")
    pass_on(depot, certificate)
    assert depot.calls.passphrase({"address": ALICE})["passphrases"] == []
    assert depot.calls.passphrase({"address": "nobody@org.example"})["error"] == "not-managed"


def test_a_passphrase_in_another_row_does_not_open(depot: Depot) -> None:
    shelf = Shelf()
    shelf.passphrases = {"p12-modern": "SECRET"}
    depot.issue()
    depot.issue(BOB)
    depot.delivering(shelf).work_off("hook")
    with depot.database.write() as connection:
        (bobs,) = deliveries.of_mailbox(connection, BOB)
        theirs = connection.execute(passphrase_table.select().where(passphrase_table.c.delivery_id == bobs.id)).one()
        connection.execute(
            passphrase_table.update().where(passphrase_table.c.delivery_id != bobs.id).values(sealed=theirs.sealed)
        )
    assert depot.calls.passphrase({"address": ALICE})["error"] == "seal-broken"


def test_what_is_on_its_way_or_has_failed_is_not_asked_for_again(depot: Depot) -> None:
    certificate, shelf = depot.issue(), Shelf()
    shelf.faults = [DeliveryFailed("away"), DeliveryFailed("no", permanent=True)]
    delivering = depot.delivering(shelf)

    def again() -> tuple[str, list[str]]:
        (result,) = result_of(depot.calls.run({"addresses": [ALICE], "again": True}))
        return result["outcome"], result["targets"]

    assert again() == ("under-way", ["hook"])
    delivering.work_off("hook")
    assert again() == ("under-way", ["hook"])
    depot.advance(minutes=1)
    delivering.work_off("hook")
    assert again() == ("has-failed", ["hook"])
    depot.calls.retry({"addresses": [ALICE]})
    delivering.work_off("hook")
    assert again() == ("asked", ["hook"])
    assert depot.row(certificate).state is DeliveryState.WAITING


def test_a_changed_policy_delivers_what_is_missing_when_it_is_asked_for_and_nothing_twice(depot: Depot) -> None:
    shelf, certificate = Shelf(), depot.issue()
    delivering = depot.delivering(shelf)
    delivering.work_off("hook")
    depot.configure([HOOK, OTHER])
    (result,) = result_of(depot.calls.run({"addresses": [ALICE]}))
    assert (result["outcome"], result["targets"]) == ("asked", ["other"])
    delivering.work_off("other")
    assert shelf.serials() == [certificate.serial] * 2
    assert result_of(depot.calls.run({"addresses": [ALICE]}))[0]["outcome"] == "nothing-missing"
    again = result_of(depot.calls.run({"addresses": [ALICE], "again": True, "target": "hook"}))
    assert again[0]["targets"] == ["hook"]


def test_a_target_that_comes_back_into_the_policy_gets_what_had_ended_without_it(depot: Depot) -> None:
    shelf, certificate = Shelf(), depot.issue()
    delivering = depot.delivering(shelf)
    depot.configure([OTHER])
    delivering.work_off("hook")
    assert depot.row(certificate).state is DeliveryState.ENDED
    depot.configure([HOOK])
    assert result_of(depot.calls.run({"addresses": [ALICE]}))[0]["targets"] == ["hook"]
    delivering.work_off("hook")
    assert depot.row(certificate).state is DeliveryState.DONE


@pytest.mark.parametrize(
    ("wanted", "outcome"),
    [
        ({"addresses": ["nobody@org.example"]}, "not-managed"),
        ({"addresses": [BOB]}, "no-certificate"),
        ({"addresses": [ALICE], "target": "portal"}, "no-target"),
    ],
)
def test_who_has_nothing_to_deliver_is_told_why(depot: Depot, wanted: dict[str, object], outcome: str) -> None:
    depot.issue()
    assert result_of(depot.calls.run(wanted))[0]["outcome"] == outcome


def test_one_target_serves_all_mailboxes_of_the_same_settings_until_these_change(depot: Depot) -> None:
    made: list[TargetCommon] = []
    shelf = Shelf()

    def make(section: TargetCommon) -> Shelf:
        made.append(section)
        return shelf

    delivering = depot.delivering(make)
    depot.issue()
    depot.issue(BOB)
    delivering.work_off("hook")
    depot.configure([{**HOOK, "timeout": "5s"}])
    depot.issue()
    delivering.work_off("hook")
    assert [section.timeout.total_seconds() for section in made if isinstance(section, HookTarget)] == [30, 5]
    assert len(shelf.taken) == 3


def test_each_delivery_is_told_in_its_transaction(make_depot: MakeDepot) -> None:
    depot, shelf, told = make_depot(HOOK, OTHER), Shelf(), []

    def tell(connection: Any, certificate: StoredCertificate) -> None:
        told.append([one.state.value for one in deliveries.of_certificate(connection, certificate.id)])

    delivering = depot.delivering(shelf, when_done=tell)
    depot.issue()
    delivering.work_off("hook")
    delivering.work_off("other")
    assert told == [["done", "waiting"], ["done", "done"]]


def test_a_key_that_is_broken_is_a_persons_affair(depot: Depot) -> None:
    certificate = depot.issue()
    with depot.database.write() as connection:
        broken = key_table.update().where(key_table.c.id == certificate.key_id)
        connection.execute(broken.values(sealed_key=b"\x01" * 200))
    depot.delivering().work_off("hook")
    row = depot.row(certificate)
    assert (row.state, row.last_error) == (DeliveryState.FAILED, "keyd refused: seal broken")


def test_keyd_away_is_no_ones_fault_and_passes(depot: Depot) -> None:
    certificate = depot.issue()
    with depot.database.read() as connection:
        key = mailbox_keys.get(connection, certificate.key_id)
    with KeydClient(depot.directory / "nobody.sock", timeout=1) as nobody:
        files = KeydFiles(keyd=nobody, key=key, certificate=certificate)
        for asked in (files.encrypted_pem, lambda: files.write_clear_pem(1)):
            with pytest.raises(DeliveryFailed, match="keyd: ") as caught:
                asked()
            assert not caught.value.permanent


def test_a_respelled_mailbox_keeps_its_deliveries(depot: Depot) -> None:
    depot.issue()
    with depot.database.write() as connection:
        mailboxes.respell(connection, ALICE, "Alice@org.example")
    assert [one.target for one in depot.rows("Alice@org.example")] == ["hook"]


def test_looking_for_what_is_due_reads_no_history(depot: Depot) -> None:
    """Years of deliveries that are done must not slow down the next one, nor must thousands that are due at once."""
    asked: list[tuple[str, Any]] = []
    depot.issue()
    with depot.database.write() as connection:
        sa.event.listen(
            connection, "before_cursor_execute", lambda _c, _cursor, words, values, *_: asked.append((words, values))
        )
        deliveries.targets_due(connection, depot.now)
        deliveries.claim(connection, "hook", owner="x#1", now=depot.now, until=depot.now)
        delivery_lists.undone(connection)
        delivery_lists.in_trouble(connection)
        looked = tuple(one for one in asked if one[0].startswith(("SELECT", "UPDATE")))
        assert len(looked) == 7
        for words, values in looked:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {words}", values).all()
            steps = [str(row[3]) for row in plan]
            assert not [step for step in steps if step.startswith("SCAN") and "INDEX ix_delivery_" not in step], steps
            if "ORDER BY" in words:  # many that are due at the same moment are not sorted to find the first
                assert not [step for step in steps if "TEMP B-TREE" in step], steps
            if (words, values) in looked[:3]:  # every two seconds: from target to target, whatever waits for one
                (step,) = steps
                assert step.startswith("SEARCH delivery USING"), step
                assert "INDEX ix_delivery_turn" in step


def test_a_hook_that_runs_when_the_worker_is_stopped_ends_with_its_children_and_is_tried_again(
    make_depot: MakeDepot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(delivering_module, "POLITE", 0.0)
    monkeypatch.setattr(delivering_module, "CLEARING", 60.0)  # a busy machine is no concern here
    told = tmp_path / "told"
    words = 'sleep 600 & echo "$(dirname "$2") $$ $!" >"$1"; wait'
    depot = make_depot({"to": "hook", "argv": ["/bin/sh", "-c", words, "hook", str(told), "{p12}"]})
    certificate = depot.issue()
    delivering = depot.delivering()
    delivering.work()
    wait_until(lambda: told.exists() and told.read_text().endswith("\n"), "the hook")
    place, *programs = told.read_text().split()
    assert Path(place).exists()
    delivering.stop()
    assert not Path(place).exists()
    wait_until(lambda: not any(is_alive(int(pid)) for pid in programs), "the end of the hook and its child")
    row = depot.row(certificate)
    assert row.state is DeliveryState.RETRYING
    assert row.last_error == "/bin/sh still ran when acme-milter was stopped, and was killed"


def test_it_stops_while_a_target_hangs(depot: Depot, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivering_module, "POLITE", 0.0)
    depot.issue()
    delivering: Delivering = depot.delivering(gate)
    delivering.work()
    wait_until(lambda: len(gate.waiting) == 1, "the target to hang")
    delivering.stop()
    assert not gate.open.is_set()
