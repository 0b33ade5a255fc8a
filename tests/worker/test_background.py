# SPDX-License-Identifier: GPL-3.0-or-later
"""What the worker opens by itself: renewals when they are due, joiners, both at their pace; and when it asks first."""

import dataclasses
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import sqlalchemy as sa

from acme_milter.config.member import Member
from acme_milter.enrollment.model import Cause, Enrollment, State
from acme_milter.mailboxes.record import CameAs
from acme_milter.store import (
    accounts,
    audit,
    certificates,
    deliveries,
    enrollments,
    holds,
    mailbox_keys,
    mailboxes,
    renewals,
    revocations,
)
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.mailbox_keys import StoredMailboxKey
from acme_milter.store.mailboxes import StoredMailbox
from acme_milter.store.renewals import Renewal
from acme_milter.store.schema import certificate as certificate_table
from acme_milter.store.schema import enrollment as table
from acme_milter.store.schema import mailbox as mailbox_table
from acme_milter.store.timeline import IMPORTED
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import OrderBench
from tests.worker.test_renewer import certified, renew

YEAR = timedelta(days=365)


def give_certificates(bench: OrderBench, *, age: timedelta, lifetime: timedelta = YEAR) -> list[str]:
    """An active certificate for each mailbox, as old as that; nobody looks into what is in it. Returns their ids."""
    now, ids = bench.clock(), []
    with bench.database.write() as connection:
        key = StoredMailboxKey(
            id="k", principal="p", algorithm="p256", sealed_key=b"", spki=b"", csr=b"", created_at=now
        )
        mailbox_keys.insert(connection, key)
        for number, address in enumerate(bench.addresses):
            one = enrollments.open_new(connection, address=address, authority="ca", now=now - age)
            name = f"certificate{number:04}"
            connection.execute(
                table.update()
                .where(table.c.id == one.id)
                .values(state="active", next_attempt_at=None, certificate_id=name)
            )
            stored = StoredCertificate(
                id=name, enrollment_id=one.id, address=address, principal=address, authority="ca", key_id="k",
                serial=name, issuer="CN=ca", not_before=now - age, not_after=now - age + lifetime, chain_pem=b"",
                stored_at=now - age,
            )  # fmt: skip
            certificates.insert(connection, stored)
            ids.append(one.id)
    return ids


def opened(bench: OrderBench, cause: Cause) -> list[Enrollment]:
    with bench.database.read() as connection:
        ids = connection.execute(sa.select(table.c.id).where(table.c.cause == cause.value)).scalars().all()
    return [bench.get(one) for one in ids]


def add_to_source(bench: OrderBench, addresses: Sequence[str], came_as: CameAs = CameAs.JOINER) -> None:
    rows = [
        StoredMailbox(
            address=one, folded=one.lower(), domain="org.example", source="hr", principal=one, came_as=came_as,
            first_seen_at=bench.clock(),
        )
        for one in addresses
    ]  # fmt: skip
    with bench.database.write() as connection:
        mailboxes.save(connection, rows)


def test_certificates_without_a_row_get_one_and_are_renewed_when_due(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    give_certificates(bench, age=timedelta(days=10))
    background = bench.make_background()
    background.round()
    with bench.database.read() as connection:
        (row,) = renewals.of_mailbox(connection, bench.addresses[0])
    assert opened(bench, Cause.RENEWAL) == []
    bench.clock.advance(days=(row.due_at - bench.clock()).days - 1)
    background.round()
    assert opened(bench, Cause.RENEWAL) == []
    bench.clock.advance(days=2)
    background.round()
    (renewal,) = opened(bench, Cause.RENEWAL)
    assert (renewal.replaces_id, renewal.authority) == ("certificate0000", "ca")
    background.round()
    assert len(opened(bench, Cause.RENEWAL)) == 1


def test_a_renewal_that_failed_for_good_is_opened_again_three_days_later(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    give_certificates(bench, age=timedelta(days=250))
    background = bench.make_background()
    background.round()
    with bench.database.write() as connection:
        connection.execute(table.update().where(table.c.cause == "renewal").values(state="failed"))
    bench.clock.advance(days=2, hours=23)
    background.round()
    assert len(opened(bench, Cause.RENEWAL)) == 1
    bench.clock.advance(hours=2)
    background.round()
    assert len(opened(bench, Cause.RENEWAL)) == 2


def test_renewals_are_opened_at_the_background_pace(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=10, authority={"limits": {"background_per_hour": 3}})
    give_certificates(bench, age=timedelta(days=250))
    background = bench.make_background()
    for minutes, number in ((0, 3), (59, 3), (2, 6), (61, 9)):
        bench.clock.advance(minutes=minutes)
        background.round()
        assert len(opened(bench, Cause.RENEWAL)) == number


def test_what_ends_soon_does_not_wait_for_the_pace(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=10, authority={"limits": {"background_per_hour": 3}})
    give_certificates(bench, age=timedelta(days=352))
    bench.make_background().round()
    assert len(opened(bench, Cause.URGENT)) == 10


def test_a_mailbox_that_its_source_does_not_list_is_not_renewed_until_it_does(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    give_certificates(bench, age=timedelta(days=250))
    add_to_source(bench, bench.addresses, CameAs.IMPORT)
    members = {address: Member(address, address, source="hr") for address in bench.addresses}
    bench.config = dataclasses.replace(bench.config, members=members)
    with bench.database.write() as connection:
        connection.execute(mailbox_table.update().values(missing_since=bench.clock()))
    background = bench.make_background()
    background.round()
    assert opened(bench, Cause.RENEWAL) == []
    with bench.database.write() as connection:
        connection.execute(mailbox_table.update().values(missing_since=None))
    bench.clock.advance(days=2)
    background.round()
    assert len(opened(bench, Cause.RENEWAL)) == 1


def test_a_joiner_gets_its_certificate_and_an_import_waits(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=3)
    joiner, imported, held = bench.addresses
    add_to_source(bench, [joiner])
    add_to_source(bench, [imported], CameAs.IMPORT)
    add_to_source(bench, [held], CameAs.WAITING)
    background = bench.make_background()
    background.round()
    background.round()
    assert [one.address for one in opened(bench, Cause.JOINER)] == [joiner]


def test_joiners_come_before_renewals_within_one_pace(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=4, authority={"limits": {"background_per_hour": 3}})
    bench.addresses, coming = bench.addresses[:2], bench.addresses[2:]
    give_certificates(bench, age=timedelta(days=250))
    bench.addresses += coming
    bench.configure({"limits": {"background_per_hour": 3}}, {})
    add_to_source(bench, coming)
    bench.make_background().round()
    assert len(opened(bench, Cause.JOINER)) == 2
    assert len(opened(bench, Cause.RENEWAL)) == 1


def test_a_certificate_whose_end_has_passed_is_marked_and_still_renewed(make_orders: MakeOrderBench) -> None:
    bench = make_orders(minds_the_clock=True)
    active = certified(bench)
    with bench.database.write() as connection:
        ended = bench.clock() - timedelta(hours=1)
        connection.execute(table.update().where(table.c.id == active.id).values(not_after=ended))
    background = bench.make_background()
    background.round()
    assert bench.get(active.id).state is State.ACTIVE  # nobody has confirmed the clock yet
    bench.watch.look()
    background.round()
    assert bench.get(active.id).state is State.EXPIRED
    (row,) = rows_of(bench)
    assert row.ask_at is None
    with bench.database.write() as connection:
        renewals.move(connection, row.certificate_id, bench.clock())
    background.round()
    certified(bench, opened(bench, Cause.RENEWAL)[0])
    (row,) = rows_of(bench)
    assert row.certificate_id != active.certificate_id


def test_what_nobody_has_any_more_is_not_looked_at_once_it_has_ended(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=2)
    there = bench.addresses[:1]
    give_certificates(bench, age=timedelta(days=250))
    bench.addresses, all_of_them = there, bench.addresses
    bench.configure({}, {})
    bench.addresses = all_of_them
    background = bench.make_background()
    background.round()
    assert len(rows_of(bench)) == 2
    bench.clock.advance(days=200)
    background.round()
    assert [row.address for row in rows_of(bench)] == there


def test_a_certificate_that_another_authoritys_outlasts_is_put_off_and_not_planned_anew(
    make_orders: MakeOrderBench,
) -> None:
    bench = make_orders(others={"second": {}})
    give_certificates(bench, age=timedelta(days=250))
    come_from(bench, "second")
    certified(bench)
    background = bench.make_background()
    background.round()
    assert opened(bench, Cause.RENEWAL) == []
    before = [row for row in rows_of(bench) if row.authority == "second"]
    assert before[0].due_at > bench.clock()
    bench.clock.advance(hours=2)
    background.round()
    assert [row for row in rows_of(bench) if row.authority == "second"] == before


def test_a_crowd_that_no_time_explains_is_stopped_until_a_person_releases_it(
    make_orders: MakeOrderBench, caplog: pytest.LogCaptureFixture
) -> None:
    """F-33: a mass import of old certificates."""
    bench = make_orders(mailboxes=40, authority={"limits": {"background_per_hour": 1000}})
    background = bench.make_background()
    background.round()
    bench.clock.advance(minutes=1)
    give_certificates(bench, age=timedelta(days=250))
    bench.clock.advance(hours=2)
    with caplog.at_level(logging.ERROR, logger="acme_milter"):
        for _ in range(3):
            background.round()
            bench.clock.advance(seconds=30)
    assert opened(bench, Cause.RENEWAL) == []
    assert caplog.text.count("hold-asked") == 1
    with bench.database.write() as connection:
        (hold,) = holds.waiting(connection)
        assert (hold.name, hold.size) == ("renewals:ca", 40)
        holds.release(connection, "renewals:ca", bench.clock())
    background.round()
    assert len(opened(bench, Cause.RENEWAL)) == 40


def test_a_worker_that_starts_years_ahead_of_its_store_renews_nothing_unasked(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=30)
    background = bench.make_background()
    give_certificates(bench, age=timedelta(days=10))
    background.round()
    with bench.database.write() as connection:
        audit.record(connection, "sign-of-life", at=bench.clock())
    bench.clock.jump(days=3650)
    bench.make_background().round()
    with bench.database.read() as connection:
        assert [hold.name for hold in holds.waiting(connection)] == ["renewals:ca"]
    assert opened(bench, Cause.RENEWAL) + opened(bench, Cause.URGENT) == []


def test_a_clock_that_jumps_stops_renewals_until_the_authority_confirms_it(make_orders: MakeOrderBench) -> None:
    bench = make_orders(minds_the_clock=True)
    certified(bench)
    background = bench.make_background()
    bench.watch.look()
    background.round()
    bench.clock.jump(days=300)
    background.round()
    with bench.database.read() as connection:
        (hold,) = holds.waiting(connection)
    assert "clock" in hold.reason
    bench.watch.look()  # the authority says that it is wrong
    background.round()
    assert opened(bench, Cause.RENEWAL) == []
    bench.clock.jump(days=-300)
    background.round()
    bench.watch.look()
    background.round()
    with bench.database.read() as connection:
        assert holds.waiting(connection) == []


def test_the_round_after_a_quiet_night_asks_nothing(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=10)
    background = bench.make_background()
    give_certificates(bench, age=timedelta(days=10))
    background.round()
    bench.clock.advance(days=300)
    background.round()
    with bench.database.read() as connection:
        assert holds.waiting(connection) == []
    assert opened(bench, Cause.RENEWAL) != []


def come_from(bench: OrderBench, authority: str) -> None:
    with bench.database.write() as connection:
        for one in (table, certificate_table):
            connection.execute(one.update().values(authority=authority))


def test_renewals_with_an_authority_that_is_gone_pass_to_the_one_that_the_policy_names(
    make_orders: MakeOrderBench,
) -> None:
    bench = make_orders(others={"before": {}})
    give_certificates(bench, age=timedelta(days=10))
    come_from(bench, "before")
    background = bench.make_background()
    background.round()
    with bench.database.read() as connection:
        assert [row.authority for row in renewals.of_mailbox(connection, bench.addresses[0])] == ["before"]
    bench.configure({}, {})
    background.round()
    with bench.database.read() as connection:
        (row,) = renewals.of_mailbox(connection, bench.addresses[0])
        assert (row.authority, row.ask_at) == ("ca", None)
        assert renewals.authorities(connection) == {"ca"}
    bench.clock.advance(days=250)
    background.round()
    assert [one.authority for one in opened(bench, Cause.RENEWAL)] == ["ca"]


def test_what_came_from_elsewhere_ends_too_and_by_any_authoritys_clock(make_orders: MakeOrderBench) -> None:
    bench = make_orders(minds_the_clock=True)
    active = certified(bench)
    come_from(bench, IMPORTED)
    with bench.database.write() as connection:
        connection.execute(table.update().values(not_after=bench.clock() - timedelta(hours=1)))
    background = bench.make_background()
    background.round()
    assert bench.get(active.id).state is State.ACTIVE
    bench.watch.look()
    background.round()
    assert bench.get(active.id).state is State.EXPIRED


def test_a_machine_that_starts_in_another_year_opens_nothing_until_the_authority_is_heard(
    make_orders: MakeOrderBench,
) -> None:
    """Neither its clock nor its network is there yet, and what is due in that year would wait for that year."""
    bench = make_orders(mailboxes=2, minds_the_clock=True)
    certified(bench)
    background = bench.make_background()
    background.round()
    (planned,) = rows_of(bench)
    bench.restart()
    bench.clock.jump(days=300)
    background = bench.make_background()
    background.round()
    bench.watch.look()  # it is heard, and says that the clock is wrong
    background.round()
    assert rows_of(bench) == [planned]
    assert opened(bench, Cause.RENEWAL) + opened(bench, Cause.URGENT) == []


def rows_of(bench: OrderBench) -> list[Renewal]:
    with bench.database.read() as connection:
        return [row for one in bench.addresses for row in renewals.of_mailbox(connection, one)]


def test_what_a_wrong_clock_has_dated_is_due_once_the_clock_is_right(make_orders: MakeOrderBench) -> None:
    bench = make_orders(minds_the_clock=True)
    active = certified(bench)
    bench.make_background().round()
    bench.clock.jump(days=300)
    asked = renew(bench, active)
    assert active.certificate_id is not None
    with bench.database.write() as connection:
        then = bench.clock()
        renewals.move(connection, active.certificate_id, then + timedelta(days=3), opened_at=then)
    bench.clock.jump(days=-300)
    background = bench.make_background()
    background.round()
    assert bench.get(asked.id).next_attempt_at == asked.next_attempt_at
    bench.watch.look()
    background.round()
    due = bench.get(asked.id).next_attempt_at
    assert due is not None
    assert due <= bench.clock()
    (row,) = rows_of(bench)
    assert row.due_at < bench.clock() + timedelta(days=4)


def test_exchanges_deliveries_and_revocations_that_a_wrong_clock_has_dated_are_due_once_it_is_right(
    make_orders: MakeOrderBench,
) -> None:
    bench = make_orders(minds_the_clock=True)
    certified(bench)
    (certificate,) = bench.certificates()
    targets = {"leased": "hook", "waits": "hook", "given up": "hook"}
    bench.clock.jump(days=300)
    then = bench.clock()
    with bench.database.write() as connection:
        (account,) = accounts.every(connection)
        accounts.begin_exchange(connection, account.id, sealed_key=b"", jwk="{}", thumbprint="next", at=then)
        revocations.ask(connection, certificate, 1, then, by="test")
        deliveries.ask(connection, certificate.id, certificate.address, targets, then)
        assert deliveries.claim(connection, "leased", owner="gone#1.0", now=then, until=then + timedelta(minutes=5))
        one = deliveries.claim(connection, "given up", owner="gone#1.1", now=then, until=then)
        assert one is not None
        deliveries.failed(connection, one.id, "no", None, owner="gone#1.1")
    bench.clock.jump(days=-300)

    def due() -> tuple[list[str], list[str], list[str]]:
        with bench.database.read() as connection:
            now = bench.clock()
            return (
                accounts.exchanges_due(connection, now, 10),
                deliveries.targets_due(connection, now),
                revocations.authorities_due(connection, now),
            )

    background = bench.make_background()
    background.round()
    assert due() == ([], [], []), "nobody has confirmed the clock yet"
    bench.watch.look()
    background.round()
    assert due() == ([account.id], ["leased", "waits"], ["ca"])


def test_a_crowd_that_would_not_be_renewed_anyway_is_no_storm(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=40)
    give_certificates(bench, age=timedelta(days=250))
    everybody, bench.addresses = bench.addresses, bench.addresses[:1]
    bench.configure({}, {})
    bench.addresses = everybody
    background = bench.make_background()
    background.round()
    with bench.database.write() as connection:
        for row in rows_of(bench):
            renewals.move(connection, row.certificate_id, bench.clock() + timedelta(minutes=1))
        audit.record(connection, "sign-of-life", at=bench.clock())
    bench.clock.advance(days=1)
    bench.make_background().round()
    with bench.database.read() as connection:
        assert holds.waiting(connection) == []


def test_hosts_that_look_at_once_open_no_more_than_one_would(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=12, authority={"limits": {"background_per_hour": 3}})
    give_certificates(bench, age=timedelta(days=250))
    hosts = [bench.make_background() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda host: host.round(), hosts))
    assert len(opened(bench, Cause.RENEWAL)) == 3
