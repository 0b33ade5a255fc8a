# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailboxes, readings and revocations in the store, on SQLite and on a real PostgreSQL."""

import dataclasses
from datetime import UTC, datetime, timedelta

from acme_milter.enrollment.model import Enrollment, State
from acme_milter.enrollment.state_machine import Cancelled, advance
from acme_milter.store import certificates, enrollments, mailbox_keys, mailboxes, revocations, source_runs
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database
from acme_milter.store.mailbox_keys import StoredMailboxKey
from acme_milter.store.mailboxes import StoredMailbox

NOW = datetime(2026, 11, 22, 9, 0, 0, 123456, tzinfo=UTC)
ALICE = StoredMailbox(
    address="Alice@org.example",
    folded="alice@org.example",
    domain="org.example",
    source="hr",
    principal="hr:1",
    person_id="1",
    person_name="Alice",
    groups=frozenset({"staff", "board"}),
    came_as="import",
    first_seen_at=NOW,
)
BOB = dataclasses.replace(
    ALICE, address="bob@org.example", folded="bob@org.example", principal="hr:2", person_id="2", came_as="waiting"
)


def save(database: Database, *rows: StoredMailbox) -> None:
    with database.write() as connection:
        mailboxes.save(connection, rows)


def active(database: Database, row: StoredMailbox, number: int = 1) -> Enrollment:
    """An enrollment with a certificate, as an order leaves it."""
    with database.write() as connection:
        opened = enrollments.open_new(
            connection, address=row.address, principal=row.principal, authority=f"ca{number}", now=NOW
        )
        key = StoredMailboxKey(
            id=f"key-{row.folded}-{number}",
            principal=row.principal,
            algorithm="p256",
            sealed_key=b"sealed",
            spki=b"spki",
            csr=b"csr",
            created_at=NOW,
        )
        mailbox_keys.insert(connection, key)
        certificates.insert(
            connection,
            StoredCertificate(
                id=f"certificate-{row.folded}-{number}",
                enrollment_id=opened.id,
                address=row.address,
                principal=row.principal,
                authority=opened.authority,
                key_id=key.id,
                serial=f"a{number}",
                issuer="CN=CA",
                not_before=NOW,
                not_after=NOW + timedelta(days=number),
                chain_pem=b"",
                stored_at=NOW,
            ),
        )
        after = dataclasses.replace(
            opened,
            state=State.ACTIVE,
            version=2,
            certificate_id=f"certificate-{row.folded}-{number}",
            key_id=key.id,
            next_attempt_at=None,
        )
        enrollments.save(connection, after)
        return after


def test_what_is_saved_is_found_in_any_case_and_overwritten(database: Database) -> None:
    save(database, ALICE, BOB)
    missing = dataclasses.replace(ALICE, missing_since=NOW, groups=frozenset())
    save(database, missing)
    with database.read() as connection:
        assert mailboxes.find(connection, "aLICE@org.example") == missing
        assert mailboxes.find_many(connection, [ALICE.folded, BOB.folded, "nobody@org.example"]) == {
            ALICE.folded: missing,
            BOB.folded: BOB,
        }
        assert mailboxes.of_source(connection, "hr") == {ALICE.folded: missing, BOB.folded: BOB}
        assert mailboxes.of_source(connection, "ad") == {}


def test_who_has_left_is_counted_and_not_among_the_others(database: Database) -> None:
    save(database, ALICE, dataclasses.replace(BOB, missing_since=NOW, left_at=NOW))
    with database.read() as connection:
        assert list(mailboxes.not_left(connection)) == [ALICE]
        assert mailboxes.sources(connection) == {"hr"}
        counts = mailboxes.counts(connection, waiting="waiting")
    assert counts == {"hr": mailboxes.Counts(present=1, missing=0, left=1, waiting=0)}


def test_a_new_spelling_takes_everything_along_but_the_principal(database: Database) -> None:
    save(database, ALICE)
    enrollment = active(database, ALICE)
    with database.write() as connection:
        mailboxes.respell(connection, ALICE.address, "alice@org.example")
    with database.read() as connection:
        assert mailboxes.find(connection, ALICE.folded) == dataclasses.replace(ALICE, address="alice@org.example")
        assert [found.id for found in enrollments.of_mailbox(connection, "alice@org.example")] == [enrollment.id]
        current = certificates.current(connection, "alice@org.example", "hr:1")
    assert current is not None
    assert current.principal == "hr:1"


def test_only_the_person_s_own_certificate_is_current(database: Database) -> None:
    save(database, ALICE)
    active(database, ALICE, 1)
    active(database, ALICE, 2)
    with database.read() as connection:
        current = certificates.current(connection, ALICE.address, "hr:1")
        assert certificates.current(connection, ALICE.address, "hr:9") is None
        assert certificates.current(connection, ALICE.address, ALICE.address) is None
        both = certificates.valid_of(connection, ALICE.address, "hr:1", NOW)
        one = certificates.valid_of(connection, ALICE.address, "hr:1", NOW + timedelta(days=1))
        assert [found.serial for found in certificates.with_serial(connection, "a1")] == ["a1"]
    assert current is not None
    assert current.serial == "a2"
    assert [found.serial for found in both] == ["a2", "a1"]
    assert [found.serial for found in one] == ["a2"]


def test_enrollments_of_who_has_left_or_was_another_are_astray(database: Database) -> None:
    save(database, ALICE, BOB)
    first, _ = active(database, ALICE), active(database, BOB)
    with database.write() as connection:
        assert mailboxes.astray(connection, 10) == []
        mailboxes.save(connection, [dataclasses.replace(ALICE, principal="hr:9")])
        ((found),) = mailboxes.astray(connection, 10)
        assert (found.enrollment_id, found.has_left) == (first.id, False)
        mailboxes.save(connection, [dataclasses.replace(ALICE, left_at=NOW)])
        assert [one.has_left for one in mailboxes.astray(connection, 10)] == [True]


def test_a_certificate_under_way_is_fetched_before_its_order_is_astray(database: Database) -> None:
    save(database, dataclasses.replace(ALICE, left_at=NOW))
    with database.write() as connection:
        opened = enrollments.open_new(
            connection, address=ALICE.address, principal=ALICE.principal, authority="ca", now=NOW
        )
        assert [one.enrollment_id for one in mailboxes.astray(connection, 10)] == [opened.id]
        finalizing = dataclasses.replace(opened, state=State.FINALIZING, version=2)
        enrollments.save(connection, finalizing)
        assert mailboxes.astray(connection, 10) == []
        assert mailboxes.has_open_enrollment(connection, ALICE.address)
        assert mailboxes.held_by(connection, [ALICE.address, BOB.address]) == {ALICE.address: ALICE.principal}
        enrollments.save(connection, advance(finalizing, Cancelled(last_error="enough"), NOW))
        assert not mailboxes.has_open_enrollment(connection, ALICE.address)


def test_a_failed_reading_changes_nothing_but_the_error(database: Database) -> None:
    with database.write() as connection:
        source_runs.failed(connection, "hr", NOW, "no such file")
        first = source_runs.get(connection, "hr")
        source_runs.succeeded(connection, "hr", NOW, 7)
        source_runs.failed(connection, "hr", NOW + timedelta(hours=1), "gone")
        then = source_runs.all_runs(connection)["hr"]
    assert first is not None
    assert (first.succeeded_at, first.number, first.error) == (None, 0, "no such file")
    assert (then.succeeded_at, then.number, then.error, then.attempted_at - NOW) == (
        NOW,
        7,
        "gone",
        timedelta(hours=1),
    )


def test_a_revocation_is_asked_for_once_and_again_when_it_was_given_up(database: Database) -> None:
    save(database, ALICE)
    active(database, ALICE)
    with database.write() as connection:
        certificate = certificates.get(connection, "certificate-alice@org.example-1")
        assert revocations.ask(connection, certificate, 3, NOW, by="leavers")
        assert revocations.ask(connection, certificate, 1, NOW, by="operator")
        assert revocations.authorities_due(connection, NOW) == ["ca1"]
        (due,) = revocations.due(connection, "ca1", NOW, 10)
        assert (due.reason, due.attempts) == (3, 0)
        revocations.failed(connection, certificate.id, "no", None)
        assert revocations.due(connection, "ca1", NOW + timedelta(days=9), 10) == []
        assert [(one.last_error, one.attempts) for one in revocations.undone(connection)] == [("no", 1)]
        assert revocations.ask(connection, certificate, 1, NOW, by="operator")
        (due,) = revocations.due(connection, "ca1", NOW, 10)
        assert (due.reason, due.attempts, due.last_error) == (1, 0, None)
        revocations.done(connection, certificate.id, NOW)
        assert not revocations.ask(connection, certificate, 1, NOW, by="operator")
        assert revocations.undone(connection) == []
