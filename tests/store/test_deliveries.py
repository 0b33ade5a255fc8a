# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of deliveries and passphrases, in both kinds of database."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.enrollment.model import State
from acme_milter.store import (
    certificates,
    deliveries,
    delivery_leases,
    delivery_lists,
    enrollments,
    mailbox_keys,
    passphrases,
)
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database
from acme_milter.store.deliveries import DeliveryState
from acme_milter.store.mailbox_keys import StoredMailboxKey
from acme_milter.store.schema import enrollment as enrollment_table

ALICE, BOB = "alice@org.example", "bob@org.example"
NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
SOON = NOW + timedelta(minutes=5)
TARGETS = {"hook": "hook", "webmail": "files"}


def certificate(
    connection: sa.Connection,
    address: str = ALICE,
    *,
    at: datetime = NOW,
    authority: str = "ca",
    usage: KeyUsageKind = KeyUsageKind.DUAL,
) -> StoredCertificate:
    """A certificate in use that was stored then."""
    key_id = uuid.uuid4().hex
    mailbox_keys.insert(
        connection,
        StoredMailboxKey(
            id=key_id, principal=address, algorithm="p256", sealed_key=b"x", spki=b"", csr=b"", created_at=at
        ),
    )
    opened = enrollments.open_new(connection, address=address, authority=authority, now=at)
    stored = StoredCertificate(
        id=uuid.uuid4().hex,
        enrollment_id=opened.id,
        address=address,
        principal=address,
        authority=authority,
        key_id=key_id,
        serial=uuid.uuid4().hex,
        issuer="CN=ca",
        not_before=at,
        not_after=at + timedelta(days=365),
        chain_pem=b"",
        stored_at=at,
        usage=usage,
    )
    values = {"state": State.ACTIVE.value, "certificate_id": stored.id}
    connection.execute(enrollment_table.update().where(enrollment_table.c.id == opened.id).values(**values))
    certificates.insert(connection, stored)
    return stored


def ask(connection: sa.Connection, stored: StoredCertificate, *, again: bool = False) -> list[str]:
    return deliveries.ask(connection, stored.id, stored.address, TARGETS, NOW, again=again)


def test_a_target_is_asked_once_for_each_certificate(database: Database) -> None:
    with database.write() as connection:
        first = certificate(connection)
        assert ask(connection, first) == ["hook", "webmail"]
        assert ask(connection, first) == []
        assert ask(connection, first, again=True) == []
        assert len(deliveries.of_mailbox(connection, ALICE)) == 2


def test_the_state_of_a_row_follows_what_happened_to_it(database: Database) -> None:
    with database.write() as connection:
        ask(connection, certificate(connection))
        seen = []

        def claimed() -> str:
            one = deliveries.claim(connection, "hook", owner="w#1.0", now=NOW, until=SOON)
            assert one is not None
            return one.id

        one = claimed()
        seen.append(deliveries.get(connection, one).state)
        assert deliveries.failed(connection, one, "away", NOW, owner="w#1.0")
        seen.append(deliveries.get(connection, one).state)
        assert deliveries.failed(connection, claimed(), "no", None, owner="w#1.0") is True
        seen.append(deliveries.get(connection, one).state)
        assert deliveries.retry(connection, [one], NOW) == 1
        assert deliveries.ended(connection, claimed(), "superseded", NOW, owner="w#1.0")
        seen.append(deliveries.get(connection, one).state)
        assert ask(connection, certificates.get(connection, deliveries.get(connection, one).certificate_id)) == ["hook"]
        assert deliveries.done(connection, claimed(), "there", NOW, owner="w#1.0")
        seen.append(deliveries.get(connection, one).state)
    assert [state.value for state in seen] == ["waiting", "retrying", "failed", "ended", "done"]


@pytest.mark.parametrize("first", ["older", "newer"])
def test_the_older_certificate_of_a_mailbox_comes_first_whichever_was_asked_for_first(
    database: Database, first: str
) -> None:
    with database.write() as connection:
        older, newer = certificate(connection), certificate(connection, at=NOW + timedelta(seconds=1))
        for stored in (older, newer) if first == "older" else (newer, older):
            ask(connection, stored)
        order = []
        for number in range(2):
            one = deliveries.claim(connection, "hook", owner=f"w#1.{number}", now=SOON, until=SOON)
            assert one is not None
            assert deliveries.claim(connection, "hook", owner="w#2.0", now=SOON, until=SOON) is None
            order.append(one.certificate_id)
            deliveries.done(connection, one.id, "there", NOW, owner=f"w#1.{number}")
    assert order == [older.id, newer.id]


def test_another_mailbox_and_another_target_do_not_wait(database: Database) -> None:
    with database.write() as connection:
        ask(connection, certificate(connection))
        ask(connection, certificate(connection, BOB))
        claims = [
            deliveries.claim(connection, target, owner=f"w#1.{number}", now=NOW, until=SOON)
            for number, target in enumerate(["hook", "hook", "webmail", "webmail", "hook"])
        ]
        assert [None if one is None else one.target for one in claims] == ["hook", "hook", "webmail", "webmail", None]
        assert deliveries.targets_due(connection, NOW) == []
        assert deliveries.targets_due(connection, SOON + timedelta(seconds=1)) == ["hook", "webmail"]


def test_what_is_undone_is_counted_by_what_it_waits_for(database: Database) -> None:
    with database.write() as connection:
        for number in range(3):
            ask(connection, certificate(connection, f"box{number}@org.example"))
        for number, again in enumerate([None, SOON]):
            one = deliveries.claim(connection, "hook", owner=f"w#1.{number}", now=NOW, until=SOON)
            assert one is not None
            for _ in range(delivery_lists.TROUBLE):
                deliveries.failed(connection, one.id, "away", again, owner=f"w#1.{number}")
        assert delivery_lists.undone(connection) == {
            DeliveryState.WAITING: 4,
            DeliveryState.RETRYING: 1,
            DeliveryState.FAILED: 1,
        }
        assert delivery_lists.in_trouble(connection) == 0


def test_failing_again_and_again_is_trouble(database: Database) -> None:
    with database.write() as connection:
        ask(connection, certificate(connection))
        for number in range(delivery_lists.TROUBLE):
            assert delivery_lists.in_trouble(connection) == 0
            one = deliveries.claim(connection, "hook", owner=f"w#1.{number}", now=NOW, until=SOON)
            assert one is not None
            deliveries.failed(connection, one.id, "away", NOW, owner=f"w#1.{number}")
        assert delivery_lists.in_trouble(connection) == 1


def test_in_use_is_the_newest_of_each_kind_and_no_rehearsals(database: Database) -> None:
    with database.write() as connection:
        certificate(connection)
        dual = certificate(connection, at=NOW + timedelta(seconds=1), authority="other")
        sign = certificate(connection, at=NOW - timedelta(days=1), usage=KeyUsageKind.SIGN)
        certificate(connection, at=SOON, authority="ca:staging")
        assert [one.id for one in deliveries.in_use(connection, ALICE, ALICE)] == [sign.id, dual.id]
        assert {one.id for one in delivery_lists.all_in_use(connection)} == {sign.id, dual.id}
        assert deliveries.in_use(connection, ALICE, "somebody else") == []


def test_passphrases_are_replaced_whole_and_remember_that_they_were_shown(database: Database) -> None:
    with database.write() as connection:
        passphrases.replace(connection, "d", {"p12-modern": b"one", "pem": b"two"}, NOW)
        passphrases.replace(connection, "d", {"p12-modern": b"three"}, NOW)
        passphrases.shown(connection, "d", "p12-modern", SOON)
        (row,) = passphrases.of_delivery(connection, "d")
        assert (row.sealed, row.made_at, row.shown_at) == (b"three", NOW, SOON)
        assert "three" not in repr(row)


def test_what_a_late_one_has_brought_is_due_when_whoever_has_it_now_is_done(database: Database) -> None:
    with database.write() as connection:
        stored = certificate(connection)
        ask(connection, stored)
        later, last = SOON + timedelta(minutes=1), SOON + timedelta(minutes=9)
        late = deliveries.claim(connection, "hook", owner="w#1.0", now=NOW, until=SOON)
        second = deliveries.claim(connection, "hook", owner="w#2.0", now=later, until=last)
        assert late is not None
        assert second is not None
        assert (late.lease_owner, second.lease_owner) == (None, "w#1.0")
        assert not delivery_leases.renew(connection, late.id, owner="w#1.0", until=last)
        assert delivery_leases.do_again(connection, late.id, later, owner="w#1.0", why="late")
        assert deliveries.claim(connection, "hook", owner="w#3.0", now=later, until=last) is None
        assert not deliveries.done(connection, late.id, "there", later, owner="w#2.0")
        assert delivery_leases.do_again(connection, late.id, later, owner="w#2.0", why="late")
        third = deliveries.claim(connection, "hook", owner="w#3.0", now=later, until=last)
        assert third is not None
        assert third.lease_owner == "w#2.0"
        assert deliveries.done(connection, late.id, "there", later, owner="w#3.0", overlaps_until=last)
        assert delivery_leases.may_overlap(connection, stored.id, later)
        assert delivery_leases.end_overlaps(connection, later) == set()
        assert delivery_leases.end_overlaps(connection, last) == {stored.id}
        assert not delivery_leases.may_overlap(connection, stored.id, later)
