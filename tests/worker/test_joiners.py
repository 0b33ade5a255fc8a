# SPDX-License-Identifier: GPL-3.0-or-later
"""A mailbox whose order came to nothing is not forgotten: the person was listed before the mailbox was made."""

import dataclasses

import pytest
import sqlalchemy as sa

from acme_milter.enrollment.state_machine import Failed, advance
from acme_milter.mailboxes.record import CameAs
from acme_milter.store import enrollments
from acme_milter.store.schema import enrollment as table
from acme_milter.store.schema import mailbox as mailbox_table
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import OrderBench
from tests.worker.test_background import add_to_source


def fail(bench: OrderBench, *, ordered: bool) -> None:
    """Every open order ends without a successor; without ``ordered`` as where Postfix does not know the mailbox."""
    with bench.database.write() as connection:
        ids = connection.execute(sa.select(table.c.id).where(table.c.state == "planned")).scalars().all()
        for one in ids:
            found = enrollments.get(connection, one)
            assert found is not None
            if ordered:
                found = dataclasses.replace(found, began_ordering_at=bench.clock())
            enrollments.save(connection, advance(found, Failed(last_error="unknown"), bench.clock()))


def number_opened(bench: OrderBench, address: str) -> int:
    with bench.database.read() as connection:
        return len(enrollments.of_mailbox(connection, address))


def test_a_joiner_whose_order_failed_is_opened_again_once_a_day_until_it_has_a_certificate(
    make_orders: MakeOrderBench,
) -> None:
    """HR lists a person days before the mailbox is made."""
    bench = make_orders()
    (joiner,) = bench.addresses
    add_to_source(bench, [joiner])
    background = bench.make_background()
    for day in range(1, 4):
        background.round()
        assert number_opened(bench, joiner) == day
        fail(bench, ordered=False)
        bench.clock.advance(hours=22)
        background.round()
        assert number_opened(bench, joiner) == day
        bench.clock.advance(hours=3)
    background.round()
    with bench.database.write() as connection:
        connection.execute(table.update().where(table.c.state == "planned").values(state="active"))
    bench.clock.advance(days=2)
    background.round()
    assert number_opened(bench, joiner) == 4


@pytest.mark.parametrize(
    ("change", "number"),
    [
        ({}, 2),
        ({"missing_since": 0}, 1),
        ({"left_at": 0}, 1),
        ({"principal": "hr:somebody-new"}, 2),  # a new person's first order
        ({"came_as": "waiting"}, 1),
    ],
)
def test_only_who_is_there_is_opened_again(make_orders: MakeOrderBench, change: dict[str, object], number: int) -> None:
    bench = make_orders()
    add_to_source(bench, bench.addresses)
    bench.make_background().round()
    fail(bench, ordered=True)
    with bench.database.write() as connection:
        values = {key: bench.clock() if value == 0 else value for key, value in change.items()}
        connection.execute(mailbox_table.update().values(values or {"person_name": "A. N. Other"}))
    bench.clock.advance(hours=25)
    bench.make_background().round()
    assert number_opened(bench, bench.addresses[0]) == number


@pytest.mark.parametrize(("ordered", "number"), [(False, 2), (True, 1)])
def test_what_a_person_asked_for_is_opened_again_only_when_nothing_was_ordered(
    make_orders: MakeOrderBench, ordered: bool, number: int
) -> None:
    bench = make_orders()
    add_to_source(bench, bench.addresses, CameAs.IMPORT)
    bench.open()
    fail(bench, ordered=ordered)
    bench.clock.advance(hours=25)
    bench.make_background().round()
    assert number_opened(bench, bench.addresses[0]) == number


def test_a_rehearsal_does_not_stand_for_the_order_that_a_joiner_is_waiting_for(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    (joiner,) = bench.addresses
    add_to_source(bench, [joiner])
    bench.open(authority="ca:staging")
    bench.make_background().round()
    with bench.database.read() as connection:
        found = enrollments.of_mailbox(connection, joiner)
    assert {one.authority for one in found} == {"ca", "ca:staging"}


def test_a_rehearsal_that_failed_leads_to_no_order_that_nobody_asked_for(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    add_to_source(bench, bench.addresses, CameAs.IMPORT)
    bench.open(authority="ca:staging")
    fail(bench, ordered=False)
    bench.clock.advance(hours=25)
    bench.make_background().round()
    assert number_opened(bench, bench.addresses[0]) == 1


def test_a_later_rehearsal_hides_no_order_that_failed(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    add_to_source(bench, bench.addresses)
    bench.make_background().round()
    fail(bench, ordered=True)
    bench.clock.advance(hours=25)
    bench.open(authority="ca:staging")
    bench.make_background().round()
    assert number_opened(bench, bench.addresses[0]) == 3
