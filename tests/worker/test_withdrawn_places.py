# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing is lost by taking back that is in use, somebody else's, or put there by an older version."""

import dataclasses
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.config.member import Member
from acme_milter.delivery.target import Delivered, DeliveryFailed, Gone, Parcel
from acme_milter.enrollment.model import State
from acme_milter.store import deliveries, mailboxes, passphrases, revocations, withdrawals
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database
from acme_milter.store.deliveries import DeliveryState
from acme_milter.store.schema import delivery
from acme_milter.worker.janitor import KEEP_PASSPHRASES, Janitor
from acme_milter.worker.mailbox_writing import PARTED_AT_ONCE
from acme_milter.worker.withdrawing import revoke
from tests.delivery.depot import ALICE, BOB, Depot
from tests.worker.wall import (
    ELSEWHERE,
    GIVES_BACK,
    KEEPS,
    Wall,
    apply,
    configured,
    known,
    pass_on,
    withdraw,
    work_off,
)


@pytest.fixture
def depot() -> Iterator[Depot]:
    with Depot([GIVES_BACK, KEEPS]) as depot:
        yield depot


@pytest.fixture
def wall() -> Wall:
    return Wall()


def hand_over(depot: Depot) -> None:
    """Everybody knows of alice's successor."""
    pass_on(depot)
    depot.config = depot.config.with_members([Member(address=ALICE, principal="staff:2", source="list")])


def test_what_an_override_of_the_address_had_brought_is_looked_for_there_and_not_where_the_domain_has_it(
    depot: Depot, wall: Wall
) -> None:
    served: list[str] = []

    def make(section: Any) -> Wall:
        served.append(section.withdraw_argv[0])
        return wall

    mailboxes = {"list": [ALICE, BOB], "overrides": {ALICE: {"deliver": [ELSEWHERE]}}}
    configured(depot, domain={"deliver": [GIVES_BACK], "mailboxes": mailboxes})
    depot.issue()
    depot.delivering(make).work_off("hook")
    hand_over(depot)
    depot.delivering(make).work_off("hook")
    assert served == ["/bin/false", "/bin/false"]


def at(directory: str, **more: object) -> dict[str, object]:
    return {"to": "files", "name": "drawer", "path": f"{directory}/{{address}}", "withdraw": True, **more}


@pytest.mark.parametrize(
    ("now", "found"),
    [
        ({"deliver": [at("/new")], "groups": [at("/old")]}, "/old/{address}"),
        ({"deliver": [at("/old", mode="0640")], "groups": [at("/old")]}, "/old/{address}"),
        ({"deliver": [at("/new")], "groups": []}, "no target drawer (to: files) at /old/{address}"),
    ],
)
def test_what_lies_under_one_path_is_not_said_to_be_gone_because_another_path_has_the_name_now(
    depot: Depot, wall: Wall, now: dict[str, Any], found: str
) -> None:
    served: list[str] = []

    def make(section: Any) -> Wall:
        served.append(section.path)
        return wall

    configured(depot, domain={"deliver": [at("/old")], "mailboxes": {"list": [ALICE, BOB]}})
    certificate = depot.issue()
    depot.delivering(make).work_off("drawer")
    groups = [{"match": {"group": "staff"}, "deliver": [one]} for one in now["groups"]]
    configured(depot, domain={"deliver": now["deliver"], "mailboxes": {"list": [ALICE, BOB], "groups": groups}})
    with depot.database.write() as connection:
        revoke(connection, depot.config, certificate, 1, depot.now, by="test")
    depot.delivering(make).work_off("drawer")
    row = depot.row(certificate, "drawer")
    if found.startswith("/"):
        assert (served, row.state) == (["/old/{address}", found], DeliveryState.WITHDRAWN)
    else:
        assert (served, row.state) == (["/old/{address}"], DeliveryState.FAILED)
        assert found in (row.last_error or "")


def opens(depot: Depot, certificate: StoredCertificate, target: str = "hook") -> int:
    """How many passphrases are kept for what was delivered of it."""
    with depot.database.read() as connection:
        return len(passphrases.of_delivery(connection, depot.row(certificate, target).id))


def test_what_a_person_removed_by_hand_was_to_go_and_the_successors_is_still_there(depot: Depot, wall: Wall) -> None:
    before = depot.issue()
    work_off(depot, wall)
    hand_over(depot)
    wall.faults = [DeliveryFailed("nobody knows how", permanent=True)]
    work_off(depot, wall)
    after = depot.issue(principal="staff:2")
    work_off(depot, wall)
    assert withdraw(depot, target="hook", by_hand=True) == [("by-hand", ["hook"])]
    assert depot.row(before).state is DeliveryState.WITHDRAWN
    assert (depot.row(after).state, opens(depot, after)) == (DeliveryState.DONE, 1)
    assert withdraw(depot, target="hook", by_hand=True) == [("nothing-to-go", [])]
    # Of a target that gives nothing back it was never to go, and is nobody's all the same.
    assert withdraw(depot, target="keeps", by_hand=True) == [("by-hand", ["keeps"])]
    assert (depot.row(after, "keeps").state, opens(depot, after, "keeps")) == (DeliveryState.DONE, 1)


def test_a_worker_that_has_not_heard_of_the_successor_leaves_what_is_his(depot: Depot, wall: Wall) -> None:
    before = depot.issue()
    work_off(depot, wall)
    not_heard = depot.config
    hand_over(depot)
    after = depot.issue(principal="staff:2")
    wall.faults = [DeliveryFailed("away")] * 2
    work_off(depot, wall)
    depot.advance(minutes=1)
    depot.delivering(wall).work_off("keeps")
    heard, depot.config = depot.config, not_heard
    depot.delivering(wall).work_off("hook")
    assert depot.row(after).withdraw_why is None
    depot.config = heard
    depot.calls.run({"addresses": [ALICE]})
    depot.delivering(wall).work_off("hook")
    assert {gone.serial for gone in wall.gone} == {before.serial}
    assert depot.row(after).state is DeliveryState.DONE


@pytest.mark.parametrize("managed", [True, False])
def test_what_is_in_use_stays_beside_what_goes_also_of_a_mailbox_that_is_not_managed_any_more(
    depot: Depot, wall: Wall, managed: bool
) -> None:
    older = depot.issue()
    work_off(depot, wall)
    newer = depot.issue()
    work_off(depot, wall)
    depot.set_state(older, State.SUPERSEDED)
    with depot.database.write() as connection:
        mailboxes.save(connection, [known(first_seen_at=depot.now)])
        if not managed:
            depot.configure([GIVES_BACK, KEEPS], [BOB])
        revoke(connection, depot.config, older, 1, depot.now, by="test")
    work_off(depot, wall)
    assert [(gone.serial, gone.beside) for gone in wall.gone] == [(older.serial, (newer.chain_pem,))]


def test_an_older_one_that_is_to_go_as_well_by_then_is_not_brought_once_more(depot: Depot, wall: Wall) -> None:
    older = depot.issue()
    work_off(depot, wall)
    newer = depot.issue()
    work_off(depot, wall)
    take_down = wall.withdraw

    def meanwhile(gone: Gone) -> str:
        if gone.serial == newer.serial:
            assert withdraw(depot, target="hook") == [("withdrawing", ["hook"])]
        return take_down(gone)

    wall.withdraw = meanwhile  # type: ignore[method-assign]  # of this one wall
    with depot.database.write() as connection:
        revocations.ask(connection, newer, 1, depot.now, by="test")
    withdraw(depot, gone=True)
    work_off(depot, wall)
    assert [depot.row(one).state for one in (older, newer)] == [DeliveryState.WITHDRAWN] * 2
    assert wall.hangs == {}


def test_what_an_older_worker_brought_beside_this_one_is_taken_back_from_the_next_start_on(
    depot: Depot, wall: Wall
) -> None:
    certificate = depot.issue()
    work_off(depot, wall)
    with depot.database.write() as connection:
        connection.execute(delivery.update().values(begun_at=None, delivered_at=None))
    delivering = depot.delivering(wall, owner="depot#2")
    delivering.start()
    assert withdraw(depot, target="hook") == [("withdrawing", ["hook"])]
    delivering.work_off("hook")
    assert depot.row(certificate).state is DeliveryState.WITHDRAWN


def test_of_many_who_leave_at_once_few_are_parted_with_in_one_transaction(
    depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, left = Database.write, []

    def counted(database: Database) -> Any:
        with database.read() as connection:
            rows = mailboxes.of_source(connection, "list").values()
        left.append(sum(row.left_at is not None for row in rows))
        return write(database)

    monkeypatch.setattr(Database, "write", counted)
    rows = [
        known(f"u{number}@org.example", first_seen_at=depot.now, left_at=depot.now)
        for number in range(2 * PARTED_AT_ONCE)
    ]
    apply(depot, left=rows)
    assert left == [0, PARTED_AT_ONCE]


def test_others_may_write_while_the_janitor_looks_for_passphrases(
    depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, looked = passphrases.unused, []

    def meanwhile(connection: sa.Connection, before: datetime) -> list[str]:
        with closing(sqlite3.connect(depot.directory / "store.db", timeout=0, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")
        looked.append(before)
        return look(connection, before)

    monkeypatch.setattr(passphrases, "unused", meanwhile)
    Janitor(database=depot.database, clock=lambda: depot.now).tidy()
    assert looked == [depot.now - KEEP_PASSPHRASES]


def test_what_was_brought_under_an_older_spelling_of_the_address_goes_too(depot: Depot, wall: Wall) -> None:
    spelled = "Alice@org.example"
    depot.configure([GIVES_BACK], [spelled])
    signs, encrypts = (depot.issue(spelled, usage=usage) for usage in (KeyUsageKind.SIGN, KeyUsageKind.ENCRYPT))
    depot.delivering(wall).work_off("hook")
    with depot.database.write() as connection:
        mailboxes.save(
            connection, [dataclasses.replace(known(spelled, principal=spelled, first_seen_at=depot.now), folded=ALICE)]
        )
        mailboxes.respell(connection, spelled, ALICE)
    depot.configure([GIVES_BACK], [ALICE])
    renewed = depot.issue(principal=spelled, usage=KeyUsageKind.ENCRYPT)
    depot.config = depot.config.with_members([Member(address=ALICE, principal=spelled, source="list")])
    depot.calls.run({"addresses": [ALICE]})
    depot.delivering(wall).work_off("hook")
    with depot.database.write() as connection:
        withdrawals.withdraw(connection, signs.id, ["hook"], "gone", depot.now)
    depot.delivering(wall).work_off("hook")
    assert {place: serial for place, serial in wall.hangs.items() if serial == signs.serial} == {}
    assert [(gone.address, gone.beside) for gone in wall.gone] == [
        (ALICE, (renewed.chain_pem,)),
        (spelled, ()),
    ]
    assert depot.row(signs).outcome == "off the wall; off the wall"
    assert wall.hangs[spelled, KeyUsageKind.ENCRYPT] == encrypts.serial


@pytest.mark.parametrize("in_use", [True, False])
def test_what_was_put_there_half_over_its_predecessor_goes_when_it_is_revoked(
    depot: Depot, wall: Wall, in_use: bool
) -> None:
    older = depot.issue()
    work_off(depot, wall)
    if not in_use:
        depot.set_state(older, State.SUPERSEDED)
    newer, bring = depot.issue(), wall.deliver

    def half(parcel: Parcel) -> Delivered:
        bring(parcel)
        raise DeliveryFailed("put there, and then the reload failed", permanent=True)

    wall.deliver = half  # type: ignore[method-assign]  # of this one wall
    depot.delivering(wall).work_off("hook")
    wall.deliver = bring  # type: ignore[method-assign]  # of this one wall
    with depot.database.write() as connection:
        revoke(connection, depot.config, newer, 1, depot.now, by="test")
    depot.delivering(wall).work_off("hook")
    assert depot.row(newer).state is DeliveryState.WITHDRAWN
    assert wall.hangs == ({(ALICE, KeyUsageKind.DUAL): older.serial} if in_use else {})


def test_a_newer_one_is_in_its_place_where_nobody_knows_whether_an_older_one_ever_was(depot: Depot, wall: Wall) -> None:
    older = depot.issue(planned=False)
    newer = depot.issue()
    depot.delivering(wall).work_off("hook")
    depot.advance(seconds=1)
    with depot.database.write() as connection:
        deliveries.ask(connection, older.id, ALICE, {"hook": "hook"}, depot.now)
    assert depot.delivering(wall, owner="dead#1")._claim("hook") is not None
    depot.advance(minutes=6)
    with depot.database.write() as connection:
        revoke(connection, depot.config, older, 1, depot.now, by="test")
    depot.delivering(wall).work_off("hook")
    assert [(gone.serial, gone.replaced) for gone in wall.gone] == [(older.serial, True)]
    assert wall.hangs == {(ALICE, KeyUsageKind.DUAL): newer.serial}
