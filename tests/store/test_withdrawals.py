# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of what is to be at a target no more, in both kinds of database."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.mailboxes.record import CameAs
from acme_milter.store import deliveries, delivery_leases, delivery_lists, mailboxes, revocations, withdrawals
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database
from acme_milter.store.deliveries import Delivery, DeliveryState
from acme_milter.store.mailboxes import StoredMailbox
from tests.store.test_deliveries import ALICE, BOB, NOW, SOON, TARGETS, ask, certificate

LATER = SOON + timedelta(minutes=1)


def claim(connection: sa.Connection, *, owner: str = "w#1.0", at: int = 0) -> Delivery:
    """The next job for `hook`, `at` minutes later than NOW, for five minutes."""
    now = NOW + timedelta(minutes=at)
    one = deliveries.claim(connection, "hook", owner=owner, now=now, until=now + timedelta(minutes=5))
    assert one is not None
    return one


def bring(connection: sa.Connection, *, at: int = 0) -> Delivery:
    one = claim(connection, at=at)
    assert deliveries.done(connection, one.id, "there", NOW + timedelta(minutes=at), owner="w#1.0")
    return one


def take_back(connection: sa.Connection, stored: StoredCertificate, why: str = "gone") -> list[str]:
    return withdrawals.withdraw(connection, stored.id, TARGETS, why, NOW)


def row(connection: sa.Connection, stored: StoredCertificate, target: str = "hook") -> Delivery:
    return next(one for one in deliveries.of_certificate(connection, stored.id) if one.target == target)


def test_what_is_there_is_due_to_be_taken_back_and_what_never_began_ends(database: Database) -> None:
    with database.write() as connection:
        stored = certificate(connection)
        ask(connection, stored)
        bring(connection)
        assert take_back(connection, stored) == ["hook", "webmail"]
        there, never = row(connection, stored), row(connection, stored, "webmail")
        assert (there.state, there.withdraw_why, there.outcome) == (DeliveryState.WAITING, "gone", "there")
        assert (never.state, never.withdraw_why, never.last_error) == (DeliveryState.ENDED, None, "gone")
        assert take_back(connection, stored, "again") == []
        one = claim(connection)
        assert one.withdraw_why == "gone"
        assert withdrawals.withdrawn(connection, one.id, "removed", SOON, owner="w#1.0")
        back = row(connection, stored)
        assert (back.state, back.outcome, back.begun_at) == (DeliveryState.WITHDRAWN, "removed", None)
        assert (back.delivered_at, back.done_at) == (NOW, SOON)
        assert take_back(connection, stored) == []


def test_what_may_be_there_is_taken_back_whatever_became_of_it(database: Database) -> None:
    """It failed and a person had it tried again, a crash cut it off, it ended when its turn came once more."""
    with database.write() as connection:
        failed, crashed, ended = (certificate(connection, f"box{number}@org.example") for number in range(3))
        ask(connection, ended)
        bring(connection)
        ask(connection, ended, again=True)
        one = claim(connection)
        deliveries.ended(connection, one.id, "superseded", NOW, owner="w#1.0", begun_at=one.begun_at)
        ask(connection, failed)
        one = claim(connection)
        deliveries.failed(connection, one.id, "away", NOW, owner="w#1.0")
        deliveries.retry(connection, [one.id], SOON)
        ask(connection, crashed)
        claim(connection)
        delivery_leases.release_all(connection, place="w", but="w#2")
        for stored in (failed, crashed, ended):
            assert "hook" in take_back(connection, stored)
            assert row(connection, stored).withdraw_why == "gone"


def test_one_that_ended_before_anything_was_brought_is_nothing_to_take_back(database: Database) -> None:
    with database.write() as connection:
        stored = certificate(connection)
        ask(connection, stored)
        one = claim(connection)
        assert one.begun_at is None
        deliveries.ended(connection, one.id, "superseded", NOW, owner="w#1.0", begun_at=one.begun_at)
        assert take_back(connection, stored) == ["webmail"]
        assert row(connection, stored).state is DeliveryState.ENDED


def test_whoever_is_just_bringing_it_is_waited_for_and_does_not_count(database: Database) -> None:
    with database.write() as connection:
        stored = certificate(connection)
        ask(connection, stored)
        one = claim(connection)
        take_back(connection, stored)
        assert deliveries.claim(connection, "hook", owner="w#2.0", now=NOW, until=SOON) is None
        assert not delivery_leases.renew(connection, one.id, owner="w#1.0", until=LATER)
        assert not deliveries.done(connection, one.id, "there", NOW, owner="w#1.0")
        assert not deliveries.failed(connection, one.id, "not mine", None, owner="w#1.0")
        delivery_leases.let_go(connection, one.id, owner="w#1.0")
        back = claim(connection, owner="w#2.0")
        assert (back.withdraw_why, back.lease_owner, back.last_error) == ("gone", None, None)


@pytest.mark.parametrize("so_far", ["under way", "done"])
def test_what_comes_late_is_taken_back_again(database: Database, so_far: str) -> None:
    with database.write() as connection:
        stored = certificate(connection)
        ask(connection, stored)
        late = claim(connection)
        take_back(connection, stored)
        one = claim(connection, owner="w#2.0", at=6)
        assert one.lease_owner == "w#1.0+again"
        now = NOW + timedelta(minutes=7)
        if so_far == "done":
            assert withdrawals.withdrawn(connection, one.id, "removed", now, owner="w#2.0")
        assert delivery_leases.do_again(connection, late.id, now, owner="w#1.0", why="late")
        if so_far == "under way":
            assert not withdrawals.withdrawn(connection, one.id, "removed", now, owner="w#2.0")
            assert delivery_leases.do_again(connection, late.id, now, owner="w#2.0", why="late")
        again = claim(connection, owner="w#3.0", at=8)
        assert (again.withdraw_why, again.begun_at is None) == ("gone", False)
        assert withdrawals.withdrawn(connection, one.id, "removed", now, owner="w#3.0")


@pytest.mark.parametrize("so_far", ["waiting", "under way", "done"])
def test_asked_for_again_it_is_brought_anew_and_not_by_asking_once(database: Database, so_far: str) -> None:
    with database.write() as connection:
        stored = certificate(connection)
        ask(connection, stored)
        bring(connection)
        take_back(connection, stored)
        if so_far != "waiting":
            one = claim(connection)
        if so_far == "done":
            withdrawals.withdrawn(connection, one.id, "removed", NOW, owner="w#1.0")
        assert ask(connection, stored) == ["webmail"]
        assert ask(connection, stored, again=True) == ["hook"]
        anew = row(connection, stored)
        assert (anew.state, anew.withdraw_why, anew.outcome) == (DeliveryState.WAITING, None, None)
        assert (anew.delivered_at is None) is (so_far == "done")
        if so_far == "under way":
            assert deliveries.claim(connection, "hook", owner="w#2.0", now=NOW, until=SOON) is None
            assert not delivery_leases.renew(connection, one.id, owner="w#1.0", until=LATER)
            assert not withdrawals.withdrawn(connection, one.id, "removed", NOW, owner="w#1.0")
            delivery_leases.let_go(connection, one.id, owner="w#1.0")
        assert claim(connection).withdraw_why is None


def test_what_is_to_be_taken_back_stands_in_nobodys_way(database: Database) -> None:
    with database.write() as connection:
        older, newer = certificate(connection), certificate(connection, at=NOW + timedelta(seconds=1))
        ask(connection, older)
        bring(connection)
        take_back(connection, older)
        one = claim(connection)
        deliveries.failed(connection, one.id, "away", SOON, owner="w#1.0", withdrawal=True)
        ask(connection, newer)
        assert claim(connection).certificate_id == newer.id
        assert not deliveries.is_overtaken(connection, row(connection, older).id)


def test_a_newer_one_that_is_taken_back_overtakes_nothing(database: Database) -> None:
    with database.write() as connection:
        older, newer = certificate(connection), certificate(connection, at=NOW + timedelta(seconds=1))
        for stored in (older, newer):
            ask(connection, stored)
            bring(connection)
        delivery = row(connection, older).id
        assert deliveries.is_overtaken(connection, delivery)
        take_back(connection, newer)
        assert not deliveries.is_overtaken(connection, delivery)


def test_what_was_put_there_last_has_taken_the_place(database: Database) -> None:
    with database.write() as connection:
        older, newer = certificate(connection), certificate(connection, at=NOW + timedelta(seconds=1))
        other = certificate(connection, at=NOW + timedelta(seconds=2), usage=KeyUsageKind.SIGN)
        for at, stored in enumerate((older, newer, other)):
            ask(connection, stored)
            bring(connection, at=at)
        first, second = row(connection, older).id, row(connection, newer).id
        assert withdrawals.is_replaced(connection, first)
        assert not withdrawals.is_replaced(connection, second)
        take_back(connection, newer)
        assert deliveries.failed(connection, claim(connection, at=3).id, "no", None, owner="w#1.0", withdrawal=True)
        ask(connection, older, again=True)
        bring(connection, at=9)
        assert withdrawals.is_replaced(connection, second)
        assert not withdrawals.is_replaced(connection, first)


def test_what_was_taken_back_is_in_nobodys_place(database: Database) -> None:
    with database.write() as connection:
        older, newer = certificate(connection), certificate(connection, at=NOW + timedelta(seconds=1))
        for at, stored in enumerate((older, newer)):
            ask(connection, stored)
            bring(connection, at=at)
        take_back(connection, newer)
        withdrawals.withdrawn(connection, claim(connection, at=2).id, "removed", SOON, owner="w#1.0")
        assert not withdrawals.is_replaced(connection, row(connection, older).id)


def test_what_stays_is_in_use_was_brought_and_nobody_wants_revoked_or_back(database: Database) -> None:
    with database.write() as connection:
        usages = (KeyUsageKind.DUAL, KeyUsageKind.DUAL, KeyUsageKind.SIGN, KeyUsageKind.ENCRYPT)
        older, newer, sign, encrypt = (
            certificate(connection, at=NOW + timedelta(seconds=number), usage=usage)
            for number, usage in enumerate(usages)
        )
        for stored in (older, newer, sign, encrypt):
            ask(connection, stored)
            bring(connection, at=1)

        def staying() -> list[str]:
            return [one.id for one in withdrawals.staying(connection, ALICE, ALICE, "hook")]

        assert staying() == [newer.id, sign.id, encrypt.id]
        take_back(connection, sign)
        revocations.ask(connection, newer, 1, NOW, by="test")
        assert staying() == [older.id, encrypt.id]
        assert withdrawals.staying(connection, ALICE, ALICE, "webmail") == []
        assert withdrawals.staying(connection, ALICE, "somebody", "hook") == []
        assert withdrawals.going(connection, [older.id, sign.id], "hook") == {sign.id}


def mailbox(address: str, **more: Any) -> StoredMailbox:
    values: dict[str, Any] = {
        "principal": address,
        "source": "hr",
        "came_as": CameAs.IMPORT,
        "first_seen_at": NOW,
        **more,
    }
    return StoredMailbox(address=address, folded=address, domain="org.example", **values)


def test_what_nobody_uses_is_found_with_the_reason(database: Database) -> None:
    names: dict[str, dict[str, Any]] = {
        "left@org.example": {"left_at": NOW},
        "moved@org.example": {"principal": "hr:2"},
        "present@org.example": {},
        BOB: {},
    }
    with database.write() as connection:
        mailboxes.save(connection, [mailbox(name, **values) for name, values in names.items()])
        for name in (*names, "nobody@org.example"):
            stored = certificate(connection, name)
            ask(connection, stored)
            bring(connection)
            if name == BOB:
                revocations.ask(connection, stored, 1, NOW, by="test")
        found = [(one.address, one.target, one.why) for one in withdrawals.unused(connection)]
        assert found == [
            (BOB, "hook", withdrawals.REVOKED),
            ("left@org.example", "hook", withdrawals.LEFT),
            ("moved@org.example", "hook", withdrawals.REASSIGNED),
        ]
        assert [one.address for one in withdrawals.unused(connection, BOB)] == [BOB]
        assert len(withdrawals.certificates_at(connection, "moved@org.example", "hr:2")) == 0
        assert len(withdrawals.certificates_at(connection, "moved@org.example", "moved@org.example")) == 1
        assert delivery_lists.undone(connection)[DeliveryState.WAITING] == 5
