# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker that is late, its job another's meanwhile: what lies at the target fits what the store says in the end."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import pkcs12

from acme_milter.config.delivery import FilesTarget
from acme_milter.config.loader import load_text
from acme_milter.delivery import files as files_module
from acme_milter.delivery.files import FilesDelivery
from acme_milter.delivery.target import Delivered, Gone, Parcel
from acme_milter.lab.processes import wait_until
from acme_milter.store import mailbox_keys
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.deliveries import Delivery, DeliveryState
from acme_milter.worker.custody import DeliverOnce
from acme_milter.worker.delivering import Delivering
from tests.delivery.depot import ALICE, Depot

HOOK = {"to": "hook", "argv": ["/bin/true"]}


class Spot:
    """One place, and what was put there last; `doors` are waited for one after the other by those who come to it."""

    def __init__(self, doors: int = 0) -> None:
        self.there: tuple[str, str] | None = None
        self.doors = [threading.Event() for _ in range(doors)]
        self.came = 0
        self.polite = False
        self._lock = threading.Lock()

    def deliver(self, parcel: Parcel) -> Delivered:
        with self._lock:
            self.came += 1
            number = self.came
        if number <= len(self.doors):
            self.doors[number - 1].wait()
        if self.polite:
            parcel.be_ours()
        self.there = (parcel.serial, f"PASSPHRASE{number}")
        return Delivered(outcome=f"there {number}", passphrases={"p12-modern": f"PASSPHRASE{number}"})

    def withdraw(self, gone: Gone) -> str:
        if self.polite:
            gone.be_ours()
        if self.there is not None and self.there[0] == gone.serial:
            self.there = None
        return "there no more"


@pytest.fixture
def depot() -> Iterator[Depot]:
    with Depot([HOOK]) as depot:
        yield depot


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def begin(stack: ExitStack, depot: Depot, spot: Spot, owner: str) -> threading.Thread:
    """A worker of that name comes to the next door and waits there, until the lease that it came with has ended."""
    for door in spot.doors:
        stack.callback(door.set)
    thread = threading.Thread(target=depot.delivering(spot, owner=owner).work_off, args=("hook",))
    came = spot.came
    thread.start()
    wait_until(lambda: spot.came > came, "it to come to the target")
    depot.advance(minutes=6)
    return thread


def passphrases(depot: Depot) -> list[str]:
    answer: dict[str, Any] = depot.calls.passphrase({"address": ALICE})
    return [one["passphrase"] for one in answer["passphrases"]]


def fits(depot: Depot, spot: Spot, certificate: StoredCertificate) -> bool:
    row: Delivery = depot.row(certificate)
    assert spot.there is not None
    return row.state is DeliveryState.DONE and [spot.there] == [(certificate.serial, one) for one in passphrases(depot)]


def test_what_another_has_done_meanwhile_is_brought_once_more(depot: Depot, stack: ExitStack) -> None:
    spot, certificate = Spot(doors=1), depot.issue()
    late, punctual = begin(stack, depot, spot, "one#1"), depot.delivering(spot, owner="two#1")
    punctual.work_off("hook")
    assert fits(depot, spot, certificate)
    spot.doors[0].set()
    late.join()
    assert depot.row(certificate).state is DeliveryState.DONE
    assert depot.row(certificate).outcome == "there 3"
    assert fits(depot, spot, certificate)


def test_while_another_is_at_it_nobody_else_comes_and_then_it_is_brought_once_more(
    depot: Depot, stack: ExitStack
) -> None:
    spot, certificate = Spot(doors=2), depot.issue()
    late = begin(stack, depot, spot, "one#1")
    second = threading.Thread(target=depot.delivering(spot, owner="two#1").work_off, args=("hook",))
    second.start()
    wait_until(lambda: spot.came == 2, "the other one to come")
    spot.doors[0].set()
    late.join()
    assert spot.came == 2
    assert depot.row(certificate).state is DeliveryState.WAITING
    spot.doors[1].set()
    second.join()
    assert spot.came == 3
    assert fits(depot, spot, certificate)


def test_a_newer_certificate_whose_place_a_late_one_took_is_brought_once_more(depot: Depot, stack: ExitStack) -> None:
    spot, older = Spot(doors=1), depot.issue()
    late, punctual = begin(stack, depot, spot, "one#1"), depot.delivering(spot, owner="two#1")
    newer = depot.issue()
    punctual.work_off("hook")
    assert spot.there is not None
    assert spot.there[0] == newer.serial
    spot.doors[0].set()
    late.join()
    assert spot.there[0] == newer.serial
    assert depot.row(older).state is DeliveryState.DONE
    assert depot.row(newer).state is DeliveryState.DONE


def test_whoever_asks_first_whether_it_is_still_his_puts_nothing_there(depot: Depot, stack: ExitStack) -> None:
    spot, certificate = Spot(doors=1), depot.issue()
    late = begin(stack, depot, spot, "one#1")
    depot.delivering(spot, owner="two#1").work_off("hook")
    spot.polite = True
    spot.doors[0].set()
    late.join()
    assert spot.came == 2
    assert fits(depot, spot, certificate)


def test_whoever_asks_keeps_a_lease_that_nobody_took_until_he_is_done(depot: Depot, stack: ExitStack) -> None:
    spot, certificate = Spot(doors=1), depot.issue()
    spot.polite = True
    late = begin(stack, depot, spot, "one#1")
    spot.doors[0].set()
    late.join()
    assert spot.came == 1
    assert fits(depot, spot, certificate)


def test_files_get_no_names_when_the_job_is_anothers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between making the files and naming them another worker delivers."""
    target = {"to": "files", "path": f"{tmp_path}/{{address}}"}
    with Depot([target]) as depot:
        certificate = depot.issue()
        made, section = files_module.bundle_files, FilesTarget.model_validate(target)

        def slowly(*given: object, **more: object) -> object:
            bundle = made(*given, **more)  # type: ignore[arg-type]  # whatever it is called with
            monkeypatch.setattr(files_module, "bundle_files", made)
            depot.advance(minutes=6)
            depot.delivering(FilesDelivery(section), owner="two#1").work_off("files")
            return bundle

        monkeypatch.setattr(files_module, "bundle_files", slowly)
        depot.delivering(FilesDelivery(section), owner="one#1").work_off("files")
        assert depot.row(certificate, "files").state is DeliveryState.DONE
        (passphrase,) = passphrases(depot)
        (file,) = (tmp_path / ALICE).iterdir()
        pkcs12.load_pkcs12(file.read_bytes(), passphrase.encode())


def has_key(depot: Depot, certificate: StoredCertificate) -> bool:
    with depot.database.read() as connection:
        return mailbox_keys.get(connection, certificate.key_id).destroyed_at is None


def test_a_key_that_is_delivered_once_stays_as_long_as_another_may_be_at_work(stack: ExitStack) -> None:
    depot = stack.enter_context(Depot([HOOK]))
    text = depot.config_path.read_text().replace("domains:\n", "defaults: {custody: deliver_once}\ndomains:\n")
    depot.config = load_text(text, depot.config_path)
    spot, certificate = Spot(doors=1), depot.issue()
    late = begin(stack, depot, spot, "one#1")

    def worker(owner: str) -> Delivering:
        look = DeliverOnce(lambda: depot.config, lambda: depot.now).look
        return depot.delivering(spot, owner=owner, when_done=look)

    worker("two#1").work_off("hook")
    assert (depot.row(certificate).state, has_key(depot, certificate)) == (DeliveryState.DONE, True)
    spot.doors[0].set()
    late.join()
    worker("two#2").work()
    assert fits(depot, spot, certificate)
    assert has_key(depot, certificate)
    depot.advance(minutes=6)
    worker("two#3").work()
    assert not has_key(depot, certificate)
