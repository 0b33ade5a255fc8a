# SPDX-License-Identifier: GPL-3.0-or-later
"""Renewal rows and their days' counts, budgets counted from enrollments, pauses, and what a look into each costs."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from acme_milter.enrollment.model import Cause
from acme_milter.enrollment.renewal import day_of
from acme_milter.enrollment.state_machine import Event, Expired, Retired, Revoked, Superseded, advance
from acme_milter.store import budgets, certificates, enrollments, joiners, mailbox_keys, pauses, queue, renewals
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database
from acme_milter.store.mailbox_keys import StoredMailboxKey
from acme_milter.store.renewals import Renewal
from acme_milter.store.schema import enrollment as enrollment_table

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def database(database: Database) -> Database:
    """A store with a key, which every certificate names."""
    with_key(database)
    return database


def with_key(database: Database) -> None:
    with database.write() as connection:
        key = StoredMailboxKey(
            id="k", principal="a", algorithm="p256", sealed_key=b"", spki=b"", csr=b"", created_at=NOW
        )
        mailbox_keys.insert(connection, key)


def an_active(connection: sa.Connection, name: str, *, not_after: datetime = NOW + 365 * DAY) -> str:
    """An active enrollment with a certificate of the same id; returns the id."""
    address = f"{name}@org.example"
    enrollments.open_new(connection, enrollment_id=name, address=address, authority="ca", now=NOW)
    connection.execute(
        enrollment_table.update()
        .where(enrollment_table.c.id == name)
        .values(state="active", next_attempt_at=None, certificate_id=name)
    )
    stored = StoredCertificate(
        id=name, enrollment_id=name, address=address, principal=address, authority="ca", key_id="k", serial=name,
        issuer="CN=ca", not_before=NOW, not_after=not_after, chain_pem=b"", stored_at=NOW,
    )  # fmt: skip
    certificates.insert(connection, stored)
    return name


def a_renewal(name: str, due_at: datetime = NOW, urgent_at: datetime = NOW + 300 * DAY) -> Renewal:
    return Renewal(
        certificate_id=name,
        authority="ca",
        address=f"{name}@org.example",
        due_at=due_at,
        urgent_at=urgent_at,
        ask_at=NOW,
    )


def days(connection: sa.Connection) -> dict[int, int]:
    return renewals.by_day(connection, "ca", 0, 1_000_000)


def test_every_change_of_a_row_is_counted_on_its_day(database: Database) -> None:
    with database.write() as connection:
        for name in ("a", "b"):
            renewals.plan(connection, a_renewal(an_active(connection, name)))
        assert days(connection) == {day_of(NOW): 2}
        renewals.move(connection, "a", NOW + 3 * DAY, opened_at=NOW)
        assert days(connection) == {day_of(NOW): 1, day_of(NOW + 3 * DAY): 1}
        renewals.plan(connection, a_renewal("a", NOW + 9 * DAY))  # in the place of its older row
        assert days(connection) == {day_of(NOW): 1, day_of(NOW + 9 * DAY): 1}
        assert renewals.number_active(connection, "ca") == 2
        assert renewals.forget(connection, "b")
        assert not renewals.forget(connection, "b")
        renewals.move(connection, "b", NOW)  # a row that is gone stays so
        assert days(connection) == {day_of(NOW + 9 * DAY): 1}


@pytest.mark.parametrize("event", [Superseded, Revoked, Retired])
def test_whatever_puts_a_certificate_out_of_use_ends_its_renewal(database: Database, event: type[Event]) -> None:
    with database.write() as connection:
        renewals.plan(connection, a_renewal(an_active(connection, "a")))
        active = enrollments.get(connection, "a")
        assert active is not None
        enrollments.save(connection, advance(active, event(), NOW))
        assert renewals.get(connection, "a") is None
        assert days(connection) == {}


def test_an_expired_certificate_is_still_to_be_renewed(database: Database) -> None:
    with database.write() as connection:
        renewals.plan(connection, a_renewal(an_active(connection, "a")))
        active = enrollments.get(connection, "a")
        assert active is not None
        enrollments.save(connection, advance(active, Expired(), NOW))
        assert renewals.get(connection, "a") is not None


def test_the_longest_due_comes_first_and_an_urgent_one_before_its_turn(database: Database) -> None:
    with database.write() as connection:
        for number, name in enumerate("abcd"):
            urgent_at = NOW - MINUTE if name == "d" else NOW + DAY
            due_at = NOW - number * MINUTE if name != "c" else NOW + MINUTE
            renewals.plan(connection, a_renewal(an_active(connection, name), due_at, urgent_at))
    with database.read() as connection:
        assert [one.certificate_id for one in renewals.due(connection, "ca", NOW, 9)] == ["d", "b", "a"]
        assert [one.certificate_id for one in renewals.urgent(connection, "ca", NOW, 9)] == ["d"]
        assert renewals.number_due(connection, "ca", NOW - 2 * MINUTE, NOW) == 2
        assert renewals.number_urgent(connection, "ca", NOW) == 1


def test_active_certificates_without_a_row_are_found_page_by_page(database: Database) -> None:
    with database.write() as connection:
        for number in range(7):
            an_active(connection, f"c{number}", not_after=NOW + (number % 3) * DAY)
        renewals.plan(connection, a_renewal("c3"))
    found: list[str] = []
    place, pages = None, 0
    with database.read() as connection:
        while pages == 0 or place is not None:
            some, place = renewals.without_row(connection, place, 2)
            found += some
            pages += 1
    assert sorted(found) == ["c0", "c1", "c2", "c4", "c5", "c6"]
    assert pages == 4


def test_what_has_ended_is_found_by_its_end(database: Database) -> None:
    with database.write() as connection:
        an_active(connection, "gone", not_after=NOW)
        an_active(connection, "there", not_after=NOW + MINUTE)
    with database.read() as connection:
        assert renewals.ended(connection, NOW, 9, unless_of=()) == ["gone"]
        assert renewals.ended(connection, NOW, 9, unless_of={"ca"}) == []


def test_budgets_count_sixty_minutes_whatever_became_of_an_order(database: Database) -> None:
    dated_by_a_wrong_clock = (Cause.RENEWAL, -600)
    with database.write() as connection:
        begun = [(Cause.BULK, 59), (Cause.RENEWAL, 1), (Cause.RENEWAL, 61), dated_by_a_wrong_clock]
        for number, (cause, ago) in enumerate(begun):
            opened = enrollments.open_new(
                connection, address=f"{number}@org.example", authority="ca", now=NOW - ago * MINUTE, cause=cause
            )
            connection.execute(
                enrollment_table.update()
                .where(enrollment_table.c.id == opened.id)
                .values(state="failed", state_since=NOW - ago * MINUTE, counted_at=NOW - ago * MINUTE)
            )
    with database.read() as connection:
        assert budgets.begun(connection, "ca", NOW) == {Cause.BULK: 1, Cause.RENEWAL: 1}
        assert budgets.opened(connection, "ca", {Cause.RENEWAL, Cause.JOINER}, NOW) == 1
        assert budgets.failed(connection, "ca", NOW - 60 * MINUTE) == 3
        assert budgets.moving(connection, "ca") == 0


def test_the_queue_goes_by_cause_and_lets_nobody_starve(database: Database) -> None:
    with database.write() as connection:
        for cause, ago in [(Cause.RENEWAL, 1), (Cause.JOINER, 1), (Cause.BULK, 1), (Cause.ASKED, 1)]:
            enrollments.open_new(
                connection, address=f"{cause}@org.example", authority="ca", now=NOW - ago * MINUTE, cause=cause
            )
        enrollments.open_new(
            connection, address="old@org.example", authority="ca", now=NOW - timedelta(days=4), cause=Cause.RENEWAL,
            enrollment_id="old",
        )  # fmt: skip
    with database.read() as connection:
        waiting = queue.waiting(connection, "ca", now=NOW, limit=9)
    assert waiting[0].id == "old"
    assert [one.cause for one in waiting[1:]] == [Cause.ASKED, Cause.BULK, Cause.JOINER, Cause.RENEWAL]


def test_a_newcomer_begins_before_the_renewals_that_an_outage_has_left(database: Database) -> None:
    with database.write() as connection:
        for hours in range(1, 60):
            address = f"{hours}@org.example"
            opened_at = NOW - timedelta(hours=hours)
            enrollments.open_new(connection, address=address, authority="ca", now=opened_at, cause=Cause.RENEWAL)
        enrollments.open_new(connection, address="new@org.example", authority="ca", now=NOW, cause=Cause.JOINER)
    with database.read() as connection:
        assert queue.waiting(connection, "ca", now=NOW, limit=1)[0].cause is Cause.JOINER


def test_the_longer_pause_wins_and_a_persons_is_the_longest(database: Database) -> None:
    with database.write() as connection:
        pauses.pause(connection, "ca", "429", NOW, NOW + 10 * MINUTE)
        pauses.pause(connection, "ca", "429", NOW, NOW + 5 * MINUTE)
        assert pauses.in_force(connection, NOW)["ca"].until == NOW + 10 * MINUTE
        pauses.pause(connection, "ca", "maintenance", NOW, None)
        pauses.pause(connection, "ca", "429", NOW, NOW + 60 * MINUTE)
        assert pauses.in_force(connection, NOW + 365 * DAY)["ca"].reason == "maintenance"
        assert pauses.resume(connection, "ca")
        assert pauses.in_force(connection, NOW) == {}


def test_a_pause_ends_by_itself_and_at_once_when_the_clock_went_back(database: Database) -> None:
    with database.write() as connection:
        pauses.pause(connection, "ca", "429", NOW, NOW + 10 * MINUTE)
        assert pauses.in_force(connection, NOW + 10 * MINUTE) == {}
        assert pauses.in_force(connection, NOW - 365 * DAY) == {}
        assert not pauses.any_ended(connection, NOW)
        assert pauses.forget_ended(connection, NOW) == []
        assert pauses.forget_ended(connection, NOW + 10 * MINUTE) == ["ca"]


def test_no_query_of_a_step_or_a_round_reads_a_whole_table(sqlite: Database) -> None:
    """What is flat at ten rows by this is flat at a hundred thousand."""
    asked: list[tuple[str, object]] = []
    with sqlite.read() as connection:
        sa.event.listen(
            connection, "before_cursor_execute", lambda _c, _cur, text, values, *_: asked.append((text, values))
        )
        queue.steps(connection, now=NOW, limit=5, resting=["x"])
        queue.waiting(connection, "ca", now=NOW, limit=5)
        budgets.begun(connection, "ca", NOW)
        budgets.beginning(connection, NOW)
        budgets.moving(connection, "ca")
        budgets.opened(connection, "ca", {Cause.RENEWAL}, NOW)
        budgets.failed(connection, "ca", NOW)
        renewals.due(connection, "ca", NOW, 5)
        renewals.urgent(connection, "ca", NOW, 5)
        renewals.number_due(connection, "ca", NOW, NOW)
        renewals.number_urgent(connection, "ca", NOW)
        renewals.to_ask(connection, "ca", NOW, 1)
        renewals.ended(connection, NOW, 5, unless_of={"ca"})
        renewals.of_authority(connection, "ca", "c", 5)
        renewals.without_row(connection, (NOW, "a", "b"), 5)
        joiners.unserved(connection, came_as="joiner", since=NOW)
        for text, values in tuple(asked):
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values).all()  # type: ignore[arg-type]  # as asked
            scans = [row.detail for row in plan if row.detail.startswith("SCAN") and "anon_" not in row.detail]
            assert scans == [], f"{text}\n{plan}"
    assert len(asked) >= 15
