# SPDX-License-Identifier: GPL-3.0-or-later
"""What nobody should use any more is taken back from where it was delivered, whatever is under way meanwhile."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.config.loader import load_text
from acme_milter.config.member import Member
from acme_milter.delivery.target import Delivered, DeliveryFailed, Parcel
from acme_milter.enrollment.model import State
from acme_milter.eventlog import Event
from acme_milter.store import (
    delivery_leases,
    delivery_lists,
    mailbox_keys,
    mailboxes,
    passphrases,
    revocations,
    timeline,
    withdrawals,
)
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.deliveries import DeliveryState
from acme_milter.store.schema import enrollment as enrollment_table
from acme_milter.worker.custody import DeliverOnce
from acme_milter.worker.janitor import KEEP_PASSPHRASES, Janitor
from acme_milter.worker.revocation_call import RevocationCall
from tests.delivery.depot import ALICE, BOB, Depot
from tests.worker.wall import (
    ELSEWHERE,
    GIVES_BACK,
    KEEPS,
    LISTED,
    STAFF,
    Wall,
    configured,
    held,
    known,
    leave,
    pass_on,
    withdraw,
    work_off,
)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def depot(stack: ExitStack) -> Depot:
    return stack.enter_context(Depot([GIVES_BACK, KEEPS]))


@pytest.fixture
def wall() -> Wall:
    return Wall()


def ask_for_revocation(depot: Depot) -> None:
    call = RevocationCall(
        config=lambda: depot.config, database=depot.database, clock=lambda: depot.now, work_is_due=lambda: None
    )
    answer: dict[str, Any] = call.answer({"addresses": [ALICE], "reason": "superseded"})
    assert [one["outcome"] for one in answer["results"]] == ["asked"]


def states(depot: Depot, certificate: StoredCertificate) -> tuple[DeliveryState, DeliveryState]:
    return depot.row(certificate).state, depot.row(certificate, "keeps").state


@pytest.mark.parametrize(
    ("happens", "why"),
    [
        (ask_for_revocation, withdrawals.REVOKED),
        (leave, withdrawals.LEFT),
        (pass_on, withdrawals.REASSIGNED),
    ],
)
def test_what_nobody_should_use_is_taken_back_where_the_target_says_so_and_stays_elsewhere(
    depot: Depot, wall: Wall, happens: Callable[[Depot], None], why: str
) -> None:
    certificate, bobs = depot.issue(), depot.issue(BOB)
    work_off(depot, wall)
    happens(depot)
    assert (depot.row(certificate).state, depot.row(certificate).withdraw_why) == (DeliveryState.WAITING, why)
    work_off(depot, wall)
    assert states(depot, certificate) == (DeliveryState.WITHDRAWN, DeliveryState.DONE)
    assert states(depot, bobs) == (DeliveryState.DONE, DeliveryState.DONE)
    assert [(gone.serial, gone.why, gone.replaced, gone.beside) for gone in wall.gone] == [
        (certificate.serial, why, False, ())
    ]
    assert depot.row(certificate).outcome == "off the wall"
    with depot.database.read() as connection:
        assert passphrases.of_delivery(connection, depot.row(certificate).id) == []
        assert len(passphrases.of_delivery(connection, depot.row(bobs).id)) == 1
        words = [note.event for note in timeline.noted(connection, ALICE, 100)]
    assert [word for word in words if word.endswith(("asked", "withdrawn")) and "revocation" not in word] == [
        Event.WITHDRAWAL_ASKED,
        Event.DELIVERY_WITHDRAWN,
    ]


def test_who_leaves_is_taken_back_whole_superseded_ones_too_and_a_successor_keeps_his_own(
    depot: Depot, wall: Wall
) -> None:
    older = depot.issue()
    work_off(depot, wall)
    newer = depot.issue()
    work_off(depot, wall)
    depot.set_state(older, State.SUPERSEDED)
    depot.config = depot.config.with_members([Member(address=ALICE, principal="staff:2", source="list")])
    theirs = depot.issue(principal="staff:2")
    work_off(depot, wall)
    pass_on(depot)
    work_off(depot, wall)
    assert {gone.serial for gone in wall.gone} == {older.serial, newer.serial}
    assert all(gone.replaced and gone.beside == (theirs.chain_pem,) for gone in wall.gone)
    assert wall.hangs[ALICE, KeyUsageKind.DUAL] == theirs.serial
    found = [depot.row(one).state for one in (older, newer, theirs)]
    assert found == [DeliveryState.WITHDRAWN, DeliveryState.WITHDRAWN, DeliveryState.DONE]


@pytest.mark.parametrize("polite", [True, False])
@pytest.mark.parametrize("happens", [ask_for_revocation, leave])
def test_what_is_just_being_brought_is_gone_in_the_end(
    depot: Depot, wall: Wall, stack: ExitStack, happens: Callable[[Depot], None], polite: bool
) -> None:
    wall.polite, certificate = polite, depot.issue()
    go_on = held(wall, stack, depot)
    happens(depot)
    work_off(depot, wall, owner="elsewhere#1")
    assert wall.gone == []
    go_on()
    work_off(depot, wall)
    assert depot.row(certificate).state is DeliveryState.WITHDRAWN
    assert (ALICE, KeyUsageKind.DUAL) not in wall.hangs
    with depot.database.read() as connection:
        assert passphrases.of_delivery(connection, depot.row(certificate).id) == []


@pytest.mark.parametrize("polite", [True, False])
def test_what_a_late_worker_brings_after_it_was_taken_back_is_taken_back_again(
    depot: Depot, wall: Wall, stack: ExitStack, polite: bool
) -> None:
    wall.polite, certificate = polite, depot.issue()
    go_on = held(wall, stack, depot, owner="one#1")
    depot.advance(minutes=6)
    leave(depot)
    work_off(depot, wall, owner="two#1")
    assert depot.row(certificate).state is DeliveryState.WITHDRAWN
    go_on()
    work_off(depot, wall, owner="two#2")
    assert depot.row(certificate).state is DeliveryState.WITHDRAWN
    assert len(wall.gone) == (1 if polite else 2)
    assert wall.hangs == {}


@pytest.mark.parametrize("polite", [True, False])
def test_what_was_asked_for_again_while_it_was_taken_back_is_there_in_the_end(
    depot: Depot, wall: Wall, stack: ExitStack, polite: bool
) -> None:
    certificate, wall.polite = depot.issue(), polite
    depot.delivering(wall).work_off("hook")
    withdraw(depot, target="hook")
    go_on = held(wall, stack, depot)
    depot.calls.run({"addresses": [ALICE], "target": "hook", "again": True})
    depot.delivering(wall, owner="elsewhere#1").work_off("hook")
    assert depot.row(certificate).state is DeliveryState.WAITING
    go_on()
    depot.delivering(wall).work_off("hook")
    assert depot.row(certificate).state is DeliveryState.DONE
    assert wall.hangs == {(ALICE, KeyUsageKind.DUAL): certificate.serial}
    assert len(wall.gone) == (not polite)


@pytest.mark.parametrize("begun", [True, False])
def test_one_whose_revocation_is_found_at_its_turn_is_taken_back_if_it_may_be_there(
    depot: Depot, wall: Wall, begun: bool
) -> None:
    certificate = depot.issue()
    if begun:
        wall.faults = [DeliveryFailed("half of it is there", permanent=True)] * 2
        work_off(depot, wall)
        depot.calls.retry({"addresses": [ALICE]})
    with depot.database.write() as connection:
        revocations.ask(connection, certificate, 1, depot.now, by="an older worker")
    work_off(depot, wall)
    found = (DeliveryState.WITHDRAWN if begun else DeliveryState.ENDED, DeliveryState.ENDED)
    assert states(depot, certificate) == found
    assert len(wall.gone) == begun
    assert wall.hangs == {}


def test_a_worker_that_has_not_heard_yet_who_has_left_brings_nothing(depot: Depot, wall: Wall) -> None:
    certificate, before = depot.issue(), depot.config
    leave(depot)
    assert depot.row(certificate).state is DeliveryState.ENDED
    depot.config = before
    assert depot.config.member(ALICE) is not None
    depot.calls.run({"addresses": [ALICE]})
    work_off(depot, wall)
    assert states(depot, certificate) == (DeliveryState.ENDED, DeliveryState.ENDED)
    assert depot.row(certificate).last_error == withdrawals.LEFT


def test_what_could_not_be_taken_back_is_tried_again_and_asks_for_a_person_in_the_end(depot: Depot, wall: Wall) -> None:
    certificate = depot.issue()
    work_off(depot, wall)
    leave(depot)
    wall.faults = [DeliveryFailed("away"), DeliveryFailed("refused", permanent=True)]
    work_off(depot, wall)
    row = depot.row(certificate)
    assert (row.state, row.last_error, row.outcome) == (DeliveryState.RETRYING, "away", "on the wall")
    depot.advance(minutes=1)
    work_off(depot, wall)
    assert depot.row(certificate).state is DeliveryState.FAILED
    with depot.database.read() as connection:
        assert delivery_lists.undone(connection, withdrawals=True)[DeliveryState.FAILED] == 1
        assert delivery_lists.undone(connection)[DeliveryState.FAILED] == 0
    depot.calls.retry({"addresses": [ALICE]})
    work_off(depot, wall)
    assert depot.row(certificate).state is DeliveryState.WITHDRAWN


@pytest.mark.parametrize(
    ("policy", "found"),
    [
        ({"domain": {"deliver": [GIVES_BACK]}, "defaults": [ELSEWHERE]}, "/bin/true"),
        ({"domain": {"deliver": [KEEPS]}, "defaults": [GIVES_BACK]}, "/bin/true"),
        (
            {"domain": {"deliver": [], "mailboxes": {"list": [BOB], "overrides": {BOB: {"deliver": [GIVES_BACK]}}}}},
            "/bin/true",
        ),
        ({"domain": {"deliver": []}}, "no target hook"),
        ({"domain": {"deliver": [ELSEWHERE], "mailboxes": {**LISTED, "groups": [STAFF]}}}, "/bin/true"),
        (
            {
                "domain": {
                    "deliver": [],
                    "mailboxes": {"list": [BOB], "overrides": {BOB: {"deliver": [ELSEWHERE]}}},
                },
                "defaults": [GIVES_BACK],
            },
            "several different targets hook",
        ),
    ],
)
def test_the_target_of_who_has_left_is_looked_for_where_it_can_have_been(
    depot: Depot, policy: dict[str, Any], found: str
) -> None:
    wall, served = Wall(), []
    certificate = depot.issue()
    work_off(depot, wall)
    leave(depot)
    configured(depot, **policy)

    def make(section: Any) -> Wall:
        served.append(section.withdraw_argv[0])
        return wall

    depot.delivering(make).work_off("hook")
    row = depot.row(certificate)
    if found.startswith("/"):
        assert (served, row.state) == ([found], DeliveryState.WITHDRAWN)
        return
    assert (served, row.state) == ([], DeliveryState.FAILED)
    assert found in (row.last_error or "")
    assert "it was put there: on the wall" in (row.last_error or "")
    assert f"acme-milter deliver withdraw {ALICE} --target hook --by-hand" in (row.last_error or "")
    assert withdraw(depot, ALICE, target="hook", by_hand=True) == [("by-hand", ["hook"])]
    assert depot.row(certificate).state is DeliveryState.WITHDRAWN


def test_what_a_successor_in_another_group_would_have_elsewhere_is_not_looked_for_there(
    depot: Depot, wall: Wall
) -> None:
    certificate = depot.issue()
    work_off(depot, wall)
    pass_on(depot)
    configured(depot, domain={"deliver": [ELSEWHERE], "mailboxes": {**LISTED, "groups": [STAFF]}})
    work_off(depot, wall)
    assert "several different targets hook" in (depot.row(certificate).last_error or "")
    assert wall.gone == []


def test_a_person_has_anything_taken_back_and_brought_anew(depot: Depot, wall: Wall) -> None:
    certificate = depot.issue()
    assert withdraw(depot, BOB) == [("nothing-there", [])]
    work_off(depot, wall)
    assert withdraw(depot, ALICE.upper(), target="keeps") == [("withdrawing", ["keeps"])]
    assert withdraw(depot, target="keeps") == [("withdrawing-already", ["keeps"])]
    shown: Any = depot.calls.passphrase({"address": ALICE})
    assert [one["target"] for one in shown["passphrases"]] == ["hook"]
    work_off(depot, wall)
    assert states(depot, certificate) == (DeliveryState.DONE, DeliveryState.WITHDRAWN)
    assert withdraw(depot, target="keeps") == [("nothing-there", [])]
    answer: Any = depot.calls.run({"addresses": [ALICE]})
    assert answer["results"][0]["outcome"] == "nothing-missing"
    answer = depot.calls.run({"addresses": [ALICE], "target": "keeps", "again": True})
    assert answer["results"][0]["targets"] == ["keeps"]
    work_off(depot, wall)
    assert states(depot, certificate) == (DeliveryState.DONE, DeliveryState.DONE)


def test_what_was_delivered_before_somebody_left_unnoticed_is_found_and_taken_back(depot: Depot, wall: Wall) -> None:
    certificate, bobs = depot.issue(), depot.issue(BOB)
    work_off(depot, wall)
    with depot.database.write() as connection:
        mailboxes.save(connection, [known(first_seen_at=depot.now, left_at=depot.now)])
    assert withdraw(depot, ALICE, BOB, gone=True) == [("withdrawing", ["hook"]), ("nothing-there", [])]
    assert withdraw(depot, ALICE, gone=True, target="keeps") == [("withdrawing", ["keeps"])]
    work_off(depot, wall)
    assert states(depot, certificate) == (DeliveryState.WITHDRAWN, DeliveryState.WITHDRAWN)
    assert states(depot, bobs) == (DeliveryState.DONE, DeliveryState.DONE)


def test_an_older_one_in_use_whose_place_it_had_taken_is_brought_once_more(depot: Depot, wall: Wall) -> None:
    older = depot.issue()
    work_off(depot, wall)
    newer = depot.issue()
    work_off(depot, wall)
    with depot.database.write() as connection:
        revocations.ask(connection, newer, 1, depot.now, by="test")
    assert withdraw(depot, gone=True) == [("withdrawing", ["hook"])]
    work_off(depot, wall)
    assert wall.gone[0].beside == (older.chain_pem,)
    assert wall.hangs == {(ALICE, KeyUsageKind.DUAL): older.serial}
    assert depot.row(older).state is DeliveryState.DONE


def test_a_key_that_is_delivered_once_is_not_destroyed_because_it_was_taken_back(stack: ExitStack, wall: Wall) -> None:
    depot = stack.enter_context(Depot([GIVES_BACK, KEEPS]))
    text = depot.config_path.read_text().replace("domains:\n", "defaults: {custody: deliver_once}\ndomains:\n")
    depot.config = load_text(text, depot.config_path)
    look = DeliverOnce(lambda: depot.config, lambda: depot.now).look
    certificate = depot.issue()
    depot.delivering(wall, when_done=look).work_off("hook")
    withdraw(depot, target="hook")
    work_off(depot, wall, when_done=look)
    assert states(depot, certificate) == (DeliveryState.WITHDRAWN, DeliveryState.DONE)
    with depot.database.read() as connection:
        assert mailbox_keys.get(connection, certificate.key_id).destroyed_at is None


def test_the_other_half_of_a_pair_hears_nothing_of_one_that_goes(stack: ExitStack, wall: Wall) -> None:
    depot = stack.enter_context(Depot([GIVES_BACK]))
    taken: list[Parcel] = []
    bring = wall.deliver

    def deliver(parcel: Parcel) -> Delivered:
        taken.append(parcel)
        return bring(parcel)

    wall.deliver = deliver  # type: ignore[method-assign]  # of this one wall
    signs, encrypts = depot.issue(usage=KeyUsageKind.SIGN), depot.issue(usage=KeyUsageKind.ENCRYPT)
    delivering = depot.delivering(wall)
    delivering.work_off("hook")
    with depot.database.write() as connection:
        withdrawals.withdraw(connection, signs.id, ["hook"], "gone", depot.now)
    depot.calls.run({"addresses": [ALICE], "again": True})
    with depot.database.write() as connection:
        withdrawals.withdraw(connection, signs.id, ["hook"], "gone", depot.now)
    delivering.work_off("hook")
    assert (taken[-1].serial, taken[-1].beside) == (encrypts.serial, ())
    (gone,) = wall.gone
    assert (gone.serial, gone.beside) == (signs.serial, (encrypts.chain_pem,))


def test_a_successor_of_a_dead_worker_takes_back_what_that_one_may_have_brought(depot: Depot, wall: Wall) -> None:
    certificate = depot.issue()
    dead = depot.delivering(wall, owner="depot#0")
    assert dead._claim("hook") is not None
    with depot.database.write() as connection:
        delivery_leases.release_all(connection, place="depot", but="depot#1")
    leave(depot)
    work_off(depot, wall)
    assert depot.row(certificate).state is DeliveryState.WITHDRAWN


def test_passphrases_of_what_is_out_of_use_are_forgotten_after_a_month(depot: Depot, wall: Wall) -> None:
    certificate, bobs = depot.issue(), depot.issue(BOB)
    work_off(depot, wall)
    depot.set_state(certificate, State.SUPERSEDED)
    with depot.database.write() as connection:
        connection.execute(enrollment_table.update().values(state_since=depot.now))

    def kept(after: timedelta) -> list[int]:
        Janitor(database=depot.database, clock=lambda: depot.now + after).tidy()
        with depot.database.read() as connection:
            return [len(passphrases.of_delivery(connection, depot.row(one).id)) for one in (certificate, bobs)]

    assert kept(KEEP_PASSPHRASES) == [1, 1]
    assert kept(KEEP_PASSPHRASES + timedelta(seconds=1)) == [0, 1]
