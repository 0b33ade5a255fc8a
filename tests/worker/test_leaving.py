# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of orders and certificates whose mailbox has left or is another person's, at the test CA."""

import dataclasses
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from acme_milter.enrollment.model import Enrollment, State
from acme_milter.enrollment.state_machine import Revoked, advance
from acme_milter.lab.processes import wait_until
from acme_milter.mailboxes.record import CameAs
from acme_milter.mailboxes.sync import Difference
from acme_milter.store import certificates, enrollments, mailboxes, revocations
from acme_milter.store.mailboxes import StoredMailbox
from acme_milter.worker.leaving import Leaving
from acme_milter.worker.mailbox_writing import write_difference
from tests.delivery.put_there import put_there, why_withdrawn
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import OrderBench


class Departure:
    """A bench whose mailbox is known to the store, and the part under test."""

    def __init__(self, bench: OrderBench, *, revoke: bool) -> None:
        self.bench = bench
        defaults = bench.config.defaults
        leavers = defaults.leavers.model_copy(update={"revoke": revoke, "reason": "cessation-of-operation"})
        layers = {
            name: dataclasses.replace(layer, base=layer.base.model_copy(update={"leavers": leavers}))
            for name, layer in bench.config.layers.items()
        }
        bench.config = dataclasses.replace(bench.config, layers=layers)
        address = bench.addresses[0]
        self.row = StoredMailbox(
            address=address,
            folded=address,
            domain=address.partition("@")[2],
            source="list",
            principal=address,
            came_as=CameAs.IMPORT,
            first_seen_at=bench.clock(),
        )
        self.save(self.row)
        self.leaving = Leaving(
            config=lambda: bench.config,
            database=bench.database,
            authorities=bench.authorities,
            clock=bench.clock,
        )

    def save(self, row: StoredMailbox) -> None:
        with self.bench.database.write() as connection:
            mailboxes.save(connection, [row])

    def leave(self) -> None:
        now = self.bench.clock()
        self.save(dataclasses.replace(self.row, missing_since=now - timedelta(days=14), left_at=now))

    def apply(self, **changes: tuple[Any, ...]) -> None:
        """As the look at a source does."""
        applied = Difference(source="list", number=0, **changes)
        write_difference(self.bench.database, self.bench.config, applied, self.bench.clock())

    def hand_over(self) -> None:
        self.save(dataclasses.replace(self.row, principal="list#other", came_as=CameAs.JOINER))

    def awaiting(self) -> Enrollment:
        return self.bench.step_until(self.bench.open(), State.AWAITING_MAIL)

    def active(self) -> Enrollment:
        return self.bench.step_until(self.bench.answer_mail(self.awaiting()), State.ACTIVE)

    def asked(self) -> list[tuple[str | None, int]]:
        with self.bench.database.read() as connection:
            return [(one.certificate_id, one.reason) for one in revocations.undone(connection)]

    def authorization_statuses(self) -> list[str]:
        mine = [one for one in self.bench.site.authority.orders() if self.row.address in one["identifiers"]]
        return [one["status"] for order in mine for one in order["authorizations"].values()]


@pytest.fixture
def make(make_orders: MakeOrderBench) -> Iterator[Any]:
    made: list[Departure] = []

    def departure(*, revoke: bool = True) -> Departure:
        made.append(Departure(make_orders(), revoke=revoke))
        return made[-1]

    yield departure
    for one in made:
        one.leaving.close()


def test_who_is_there_keeps_everything(make: Any) -> None:
    it: Departure = make()
    enrollment = it.awaiting()
    assert it.leaving.end_what_is_over() == 0
    assert it.bench.get(enrollment.id).state is State.AWAITING_MAIL


def test_an_open_order_of_a_leaver_ends_and_its_authorization_is_given_back(make: Any) -> None:
    it: Departure = make()
    enrollment = it.awaiting()
    it.leave()
    assert it.leaving.end_what_is_over() == 1
    ended = it.bench.get(enrollment.id)
    assert (ended.state, ended.last_error, ended.successor_id) == (State.CANCELLED, "the mailbox has left", None)
    wait_until(lambda: it.authorization_statuses() == ["deactivated"], "the authorization to be given back")
    assert it.asked() == []


@pytest.mark.parametrize("revoke", [True, False])
def test_a_leaver_s_certificate_goes_out_of_use_and_is_revoked_by_policy(make: Any, revoke: bool) -> None:
    it: Departure = make(revoke=revoke)
    enrollment = it.active()
    it.leave()
    assert it.leaving.end_what_is_over() == 1
    assert it.bench.get(enrollment.id).state is State.SUPERSEDED
    assert it.asked() == ([(enrollment.certificate_id, 5)] if revoke else [])
    with it.bench.database.read() as connection:
        assert certificates.current(connection, it.row.address, it.row.principal) is None
    assert it.leaving.end_what_is_over() == 0


def test_what_was_brought_after_somebody_left_is_taken_back_when_his_certificate_goes_out_of_use(make: Any) -> None:
    """By a worker that had not heard of it yet."""
    it: Departure = make(revoke=False)
    enrollment = it.active()
    it.leave()
    assert enrollment.certificate_id is not None
    put_there(it.bench.database, enrollment.certificate_id, it.row.address, it.bench.clock())
    assert it.leaving.end_what_is_over() == 1
    assert why_withdrawn(it.bench.database, enrollment.certificate_id) == "the mailbox has left"


def test_a_new_person_ends_the_old_one_s_orders_and_certificates_at_once(make: Any) -> None:
    it: Departure = make()
    first = it.active()
    renewal = it.awaiting()
    it.hand_over()
    assert it.leaving.end_what_is_over() == 2
    assert it.bench.get(first.id).state is State.SUPERSEDED
    ended = it.bench.get(renewal.id)
    assert (ended.state, ended.last_error) == (State.CANCELLED, "the mailbox is another person's now")
    assert it.asked() == [(first.certificate_id, 5)]
    with it.bench.database.read() as connection:
        assert certificates.current(connection, it.row.address, "list#other") is None


def test_a_certificate_that_was_under_way_is_fetched_and_then_goes_out_of_use(make: Any) -> None:
    it: Departure = make()
    finalizing = it.bench.step_until(it.bench.answer_mail(it.awaiting()), State.FINALIZING)
    it.leave()
    assert it.leaving.end_what_is_over() == 0
    active = it.bench.step_until(finalizing, State.ACTIVE)
    assert it.leaving.end_what_is_over() == 1
    assert it.asked() == [(active.certificate_id, 5)]


def test_everything_of_a_leaver_that_still_lasts_is_revoked(make: Any) -> None:
    it: Departure = make()
    first, second = it.active(), it.active()
    assert it.bench.get(first.id).state is State.SUPERSEDED
    it.leave()
    it.leaving.end_what_is_over()
    assert {certificate for certificate, _ in it.asked()} == {first.certificate_id, second.certificate_id}


def test_a_new_person_s_certificate_does_not_hide_the_old_one_from_revocation(make: Any) -> None:
    """An order that was under way is fetched for the old person; the new one's may be there before anybody looks."""
    it: Departure = make()
    first = it.active()
    it.hand_over()
    bench = it.bench
    with bench.database.write() as connection:
        opened = enrollments.open_new(
            connection, address=it.row.address, principal="list#other", authority="ca", now=bench.clock()
        )
    second = bench.step_until(bench.answer_mail(bench.step_until(opened, State.AWAITING_MAIL)), State.ACTIVE)
    assert it.leaving.end_what_is_over() == 1
    assert [bench.get(one.id).state for one in (first, second)] == [State.SUPERSEDED, State.ACTIVE]
    assert it.asked() == [(first.certificate_id, 5)]


@pytest.mark.parametrize("goes", ["left", "moved"])
def test_what_is_out_of_use_already_is_revoked_as_well_when_its_person_goes(make: Any, goes: str) -> None:
    it: Departure = make()
    first, second = it.active(), it.active()
    with it.bench.database.write() as connection:
        enrollments.save(connection, advance(it.bench.get(second.id), Revoked(), it.bench.clock()))
    now = it.bench.clock()
    if goes == "left":
        it.apply(left=(dataclasses.replace(it.row, missing_since=now, left_at=now),))
    else:
        it.apply(moved=((it.row, dataclasses.replace(it.row, principal="list#other")),))
    assert (first.certificate_id, 5) in it.asked()
