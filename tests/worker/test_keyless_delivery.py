# SPDX-License-Identifier: GPL-3.0-or-later
"""A key that is destroyed, or never was here, is brought nowhere, and nobody is kept waiting for it."""

from collections.abc import Iterator
from typing import Any

import pytest

from acme_milter.delivery.target import Delivered, DeliveryFailed, Gone, Parcel
from acme_milter.report.delivery_list import delivery_missing
from acme_milter.store import mailbox_keys
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.deliveries import DeliveryState
from acme_milter.store.schema import mailbox_key as key_table
from acme_milter.worker.custody import destroy
from acme_milter.worker.delivering import Delivering
from acme_milter.worker.delivery_keys import KeydFiles
from tests.delivery.depot import ALICE, Depot

HOOK = {"to": "hook", "argv": ["/bin/true"]}
OTHER = {**HOOK, "name": "other"}
PUBLIC = {**HOOK, "name": "public", "formats": []}
"""It gets the certificate alone."""


@pytest.fixture
def depot() -> Iterator[Depot]:
    with Depot([HOOK, PUBLIC]) as depot:
        yield depot


class Full:
    """A target that takes nothing until it has room."""

    def __init__(self) -> None:
        self.has_room = False

    def deliver(self, parcel: Parcel) -> Delivered:
        if not self.has_room:
            raise DeliveryFailed("no room", permanent=True)
        return Delivered(outcome=f"{parcel.serial} is there")

    def withdraw(self, gone: Gone) -> str:
        return f"{gone.serial} is not there"


def work_off(delivering: Delivering) -> None:
    for title in ("hook", "public"):
        delivering.work_off(title)


def ask(depot: Depot, **more: Any) -> dict[str, Any]:
    answer: Any = depot.calls.run({"addresses": [ALICE], **more})
    (result,) = answer["results"]
    found: dict[str, Any] = result
    return found


def states(depot: Depot, certificate: StoredCertificate) -> tuple[DeliveryState, DeliveryState]:
    """With the key, and without."""
    return depot.row(certificate).state, depot.row(certificate, "public").state


def keep_of_key(depot: Depot, certificate: StoredCertificate, **values: object) -> None:
    with depot.database.write() as connection:
        connection.execute(key_table.update().where(key_table.c.id == certificate.key_id).values(**values))


@pytest.mark.parametrize(
    ("destroyed", "words"),
    [(False, "the key was never here"), (True, "the key was destroyed on 2026-06-01")],
)
def test_deliveries_of_a_key_that_never_will_be_here_end(depot: Depot, destroyed: bool, words: str) -> None:
    certificate = depot.issue()
    keep_of_key(depot, certificate, sealed_key=b"", destroyed_at=depot.now if destroyed else None)
    work_off(depot.delivering())
    assert states(depot, certificate) == (DeliveryState.ENDED, DeliveryState.DONE)
    assert words in (depot.row(certificate).last_error or "")


def test_a_key_that_is_destroyed_while_it_is_on_its_way_ends_that(depot: Depot) -> None:
    certificate = depot.issue()

    class Slow(Full):
        def deliver(self, parcel: Parcel) -> Delivered:
            keep_of_key(depot, certificate, sealed_key=b"", destroyed_at=depot.now)
            with depot.database.read() as connection:
                key = mailbox_keys.get(connection, certificate.key_id)
            KeydFiles(keyd=depot.keyd, key=key, certificate=certificate).encrypted_pem()
            raise AssertionError

    depot.delivering(Slow()).work_off("hook")
    assert depot.row(certificate).state is DeliveryState.ENDED


def test_what_has_failed_ends_when_its_key_is_destroyed(depot: Depot) -> None:
    certificate, full = depot.issue(), Full()
    delivering = depot.delivering(full)
    work_off(delivering)
    assert states(depot, certificate) == (DeliveryState.FAILED, DeliveryState.FAILED)
    with depot.database.write() as connection:
        destroy(connection, certificate, depot.now, "it was exported")
    full.has_room = True
    work_off(delivering)
    assert states(depot, certificate) == (DeliveryState.ENDED, DeliveryState.DONE)


def test_nobody_who_takes_the_key_is_asked_once_it_is_destroyed(depot: Depot) -> None:
    certificate, room = depot.issue(), Full()
    room.has_room = True
    work_off(depot.delivering(room))
    keep_of_key(depot, certificate, sealed_key=b"", destroyed_at=depot.now)
    before = depot.row(certificate)
    assert ask(depot)["outcome"] == "nothing-missing"
    found = ask(depot, again=True)
    why = "the key was destroyed on 2026-06-01, once it was given out (custody: deliver_once)"
    assert (found["outcome"], found["targets"], found["withheld"]) == ("asked", ["public"], {"hook": why})
    found = ask(depot, again=True, target="hook")
    assert (found["outcome"], found["targets"], found["withheld"]) == ("key-destroyed", [], {"hook": why})
    assert depot.row(certificate) == before


def test_where_only_a_key_that_is_not_here_is_missing_nothing_is(depot: Depot) -> None:
    certificate = depot.issue()
    depot.configure([HOOK, PUBLIC, OTHER])
    keep_of_key(depot, certificate, sealed_key=b"")
    assert ask(depot, target="other")["outcome"] == "key-elsewhere"
    with depot.database.read() as connection:
        assert delivery_missing(connection, depot.config, depot.now)["mailboxes"] == []
    keep_of_key(depot, certificate, sealed_key=b"sealed")
    with depot.database.read() as connection:
        assert delivery_missing(connection, depot.config, depot.now)["mailboxes"] == [
            {"address": ALICE, "targets": ["other"]}
        ]
