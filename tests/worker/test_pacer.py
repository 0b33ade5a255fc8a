# SPDX-License-Identifier: GPL-3.0-or-later
"""How many may begin: budgets of any sixty minutes, pauses that outlive a worker, and a clock that is wrong."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from acme_milter.enrollment.model import Cause, State
from acme_milter.lab.processes import wait_until
from acme_milter.store import budgets, enrollments, pauses
from acme_milter.store.schema import enrollment as table
from acme_milter.worker.turns import Turns
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import OrderBench


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acme_milter.enrollment.backoff.STEP_FIRST", timedelta(milliseconds=20))
    monkeypatch.setattr("acme_milter.enrollment.backoff.STEP_LONGEST", timedelta(milliseconds=200))
    monkeypatch.setattr("acme_milter.worker.scheduler.LOOK_AGAIN", 0.05)


def places(bench: OrderBench, authority: str = "ca") -> int:
    with bench.database.read() as connection:
        return bench.pacer.room(connection, authority, bench.clock()).places


def begun(bench: OrderBench) -> int:
    with bench.database.read() as connection:
        return int(connection.execute(sa.select(sa.func.count(table.c.began_ordering_at))).scalar_one())


def open_as(bench: OrderBench, cause: Cause) -> list[str]:
    with bench.database.write() as connection:
        return [
            enrollments.open_new(connection, address=one, authority="ca", now=bench.clock(), cause=cause).id
            for one in bench.addresses
        ]


@pytest.mark.usefixtures("_hasty")
@pytest.mark.parametrize("budget", ["orders_per_hour", "mails_per_hour"])
def test_an_hourly_budget_is_never_exceeded_by_two_workers_nor_after_a_restart(
    make_orders: MakeOrderBench, budget: str
) -> None:
    bench = make_orders(mailboxes=8, authority={"limits": {budget: 3}})
    bench.site.authority.set_knobs(MAIL_LOSS=100, RETRY_AFTER="none")
    bench.open_all()
    schedulers = [bench.start_scheduler("one", threads=4), bench.start_scheduler("two", threads=4)]
    wait_until(lambda: len(bench.site.authority.history("order")) >= 3 and begun(bench) == 3, "the first three")
    for scheduler in schedulers:
        scheduler.stop()
    bench.start_scheduler("three")
    bench.clock.advance(minutes=59)
    bench.start_scheduler("four")
    wait_until(lambda: places(bench) == 0, "the budget to be used up")
    assert begun(bench) == 3
    bench.clock.advance(minutes=2)
    wait_until(lambda: begun(bench) == 6, "the next three")
    assert places(bench) == 0


@pytest.mark.usefixtures("_hasty")
def test_a_rate_limits_pause_holds_for_a_worker_that_starts_after_it(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=2, others={"second": {}})
    authority = bench.site.authority
    bench.step(bench.open())  # registers the account
    authority.set_knobs(RATELIMIT=100, RETRY_AFTER_SECONDS=600)
    scheduler = bench.start_scheduler("one")
    wait_until(lambda: places(bench) == 0, "the pause")
    scheduler.stop()
    authority.set_knobs(RATELIMIT=0, MAIL_LOSS=100)
    bench.start_scheduler("two")
    waits = bench.open(bench.addresses[1])
    other = bench.open(bench.addresses[1], authority="second")
    bench.await_state(other.id, State.AWAITING_MAIL)
    assert bench.get(waits.id).state is State.PLANNED
    bench.clock.advance(seconds=601)
    bench.await_state(waits.id, State.AWAITING_MAIL)


@pytest.mark.usefixtures("_hasty")
def test_a_persons_pause_lets_open_orders_go_on_and_nothing_begin(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=2)
    bench.site.authority.set_knobs(RETRY_AFTER="none")
    underway = bench.step_until(bench.open(), State.AWAITING_MAIL)
    with bench.database.write() as connection:
        pauses.pause(connection, "ca", "maintenance", bench.clock(), None)
    waits = bench.open(bench.addresses[1])
    bench.start_scheduler()
    bench.await_state(underway.id, State.ACTIVE)
    assert bench.get(waits.id).state is State.PLANNED
    with bench.database.write() as connection:
        pauses.resume(connection, "ca")
    bench.await_state(waits.id, State.ACTIVE)


@pytest.mark.usefixtures("_hasty")
def test_what_nobody_waits_for_begins_at_its_pace_and_keeps_nobody_else(make_orders: MakeOrderBench) -> None:
    """After an outage a backlog of renewals is there, and goes out at the pace of every day."""
    bench = make_orders(mailboxes=6, authority={"limits": {"background_per_hour": 2}})
    bench.site.authority.set_knobs(MAIL_LOSS=100, RETRY_AFTER="none")
    open_as(bench, Cause.RENEWAL)
    bench.start_scheduler()
    wait_until(lambda: begun(bench) == 2, "two of them")
    asked = bench.site.addresses(1)[0]
    bench.addresses.append(asked)
    bench.site.mx.intakes[asked] = bench.intake.decide
    bench.configure({"limits": {"background_per_hour": 2}}, {})
    bench.await_state(bench.open(asked).id, State.AWAITING_MAIL)
    assert begun(bench) == 3
    bench.clock.advance(minutes=61)
    wait_until(lambda: begun(bench) == 5, "the next two")


@pytest.mark.usefixtures("_hasty")
def test_a_renewal_that_an_outage_kept_from_its_order_lets_a_newcomer_go_first(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=3, authority={"limits": {"background_per_hour": 1}})
    authority = bench.site.authority
    old, new, other = bench.addresses
    bench.step(bench.open(other))  # registers the account
    authority.set_knobs(HTTP_5XX=100, RETRY_AFTER="none")
    with bench.database.write() as connection:
        renewal = enrollments.open_new(connection, address=old, authority="ca", now=bench.clock(), cause=Cause.RENEWAL)
    scheduler = bench.start_scheduler("in the outage")
    wait_until(lambda: bench.get(renewal.id).attempts > 0, "the first attempt")
    scheduler.stop()
    authority.set_knobs(HTTP_5XX=0, MAIL_LOSS=100)
    bench.clock.advance(hours=2)
    with bench.database.write() as connection:
        joiner = enrollments.open_new(connection, address=new, authority="ca", now=bench.clock(), cause=Cause.JOINER)
    bench.start_scheduler("after it")
    bench.await_state(joiner.id, State.AWAITING_MAIL)
    assert bench.get(renewal.id).state is State.ORDERING
    bench.clock.advance(minutes=61)
    bench.await_state(renewal.id, State.AWAITING_MAIL)


def test_an_urgent_renewal_is_not_held_back_by_the_pace(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=3, authority={"limits": {"background_per_hour": 1}})
    bench.site.authority.set_knobs(MAIL_LOSS=100)
    open_as(bench, Cause.URGENT)
    bench.start_scheduler()
    wait_until(lambda: begun(bench) == 3, "all of them")


def test_a_clock_five_minutes_wrong_begins_nothing_until_it_is_right(make_orders: MakeOrderBench) -> None:
    """F-12."""
    bench = make_orders(mailboxes=2, minds_the_clock=True)
    underway = bench.step_until(bench.open(), State.AWAITING_MAIL)
    bench.clock.jump(minutes=10)
    bench.watch.look()
    assert places(bench) <= 0
    assert "10 min ahead of" in (bench.watch.objection("ca") or "")
    with pytest.raises(Exception, match="clock"):
        bench.driver.take_step(bench.open(bench.addresses[1]))
    bench.clock.jump(minutes=-10)
    bench.watch.look()
    assert bench.watch.objection("ca") is None
    assert places(bench) > 0
    assert bench.get(underway.id).is_open


@pytest.mark.parametrize("ahead", [{"minutes": 31}, {"days": 2}, {"days": 3650}])
def test_a_clock_that_jumps_ahead_ends_no_open_order(make_orders: MakeOrderBench, ahead: dict[str, float]) -> None:
    """F-13: neither the wait for the mail nor the order's own end is judged by it."""
    bench = make_orders(minds_the_clock=True)
    bench.site.authority.set_knobs(MAIL_LOSS=100)
    awaiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    bench.clock.jump(**ahead)
    patient = bench.step(awaiting)
    assert patient.state is State.AWAITING_MAIL
    assert patient.next_attempt_at is not None
    assert patient.next_attempt_at > bench.clock()  # and is not asked again and again in the meantime


def test_a_lease_is_renewed_between_the_steps_of_one_claim(
    make_orders: MakeOrderBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_orders()
    monkeypatch.setattr("acme_milter.worker.scheduler.RENEW_LEASE", timedelta(0))
    scheduler = bench.start_scheduler()
    ends: list[int] = []

    def note(_connection: sa.Connection, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("UPDATE enrollment SET lease_until"):
            ends.append(1)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        bench.site.authority.set_knobs(MAIL_LOSS=100)
        bench.await_state(bench.open().id, State.AWAITING_MAIL)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    scheduler.stop()
    assert len(ends) >= 3  # key, order, authorization: one claim


def test_what_was_planned_with_an_authority_that_is_gone_ends_and_says_so(make_orders: MakeOrderBench) -> None:
    bench = make_orders(others={"second": {}})
    left_behind = bench.open(authority="second")
    bench.configure({}, {})
    bench.start_scheduler()
    failed = bench.await_state(left_behind.id, State.FAILED)
    assert "second is not configured any more" in (failed.last_error or "")


@pytest.mark.usefixtures("_hasty")
def test_what_was_begun_in_an_outage_is_placed_at_the_pace_of_every_day(make_orders: MakeOrderBench) -> None:
    """T32: the authority counts an order when it is placed, however long ago it was begun."""
    bench = make_orders(mailboxes=6, authority={"limits": {"background_per_hour": 2}})
    authority = bench.site.authority
    for one in open_as(bench, Cause.RENEWAL):
        bench.step(bench.get(one))
    authority.set_knobs(HTTP_5XX=100, RETRY_AFTER="none")
    bench.start_scheduler()
    wait_until(lambda: tried(bench) == 6, "the outage to be noticed")
    bench.clock.advance(minutes=61)
    wait_until(lambda: put_off(bench) == 4, "two to have the places of this hour")
    authority.set_knobs(HTTP_5XX=0, MAIL_LOSS=100)
    for number in (2, 4, 6):
        wait_until(lambda number=number: placed(bench) == number, "two more")  # type: ignore[misc]  # mypy cannot tell a lambda's default
        bench.clock.advance(minutes=30)
        wait_until(lambda: put_off(bench) == 6 - placed(bench), "the others to be put off")
        assert placed(bench) == number
        bench.clock.advance(minutes=31)


def count(bench: OrderBench, *conditions: sa.ColumnElement[bool]) -> int:
    with bench.database.read() as connection:
        return int(connection.execute(sa.select(sa.func.count()).where(*conditions)).scalar_one())


def placed(bench: OrderBench) -> int:
    return count(bench, table.c.order_url.is_not(None))


def tried(bench: OrderBench) -> int:
    return count(bench, table.c.attempts > 0)


def put_off(bench: OrderBench) -> int:
    ordering = table.c.state == State.ORDERING.value
    return count(bench, ordering, table.c.next_attempt_at > bench.clock() + timedelta(minutes=1))


def test_what_waits_for_another_try_with_an_authority_that_is_gone_ends_when_its_time_comes(
    make_orders: MakeOrderBench,
) -> None:
    bench = make_orders(others={"second": {}})
    waiting = bench.open(authority="second")
    with bench.database.write() as connection:
        later = bench.clock() + timedelta(hours=8)
        connection.execute(table.update().where(table.c.id == waiting.id).values(next_attempt_at=later))
    bench.configure({}, {})
    turns = Turns(lambda: bench.config, bench.pacer)
    with bench.database.read() as connection:
        assert turns.to_begin(connection, bench.clock(), 5, ()) == []
        bench.clock.advance(hours=9)
        assert turns.to_begin(connection, bench.clock(), 5, ()) == [(waiting.id, "second")]


SAME = {"certificate": {"key": "p256", "aliases": "same_certificate"}}


@pytest.mark.usefixtures("_hasty")
def test_mails_per_hour_counts_a_reply_for_each_address_and_not_the_orders(make_orders: MakeOrderBench) -> None:
    """The first of four mailboxes has two aliases: with it alone three replies are due."""
    bench = make_orders(mailboxes=4, aliases=2, policy=SAME, authority={"limits": {"mails_per_hour": 4}})
    bench.site.authority.set_knobs(MAIL_LOSS=100, RETRY_AFTER="none")
    bench.open_all()
    bench.start_scheduler("one", threads=4)
    bench.start_scheduler("two", threads=4)
    wait_until(lambda: placed(bench) == 2, "three addresses, and one")
    with bench.database.read() as connection:
        assert budgets.replies(connection, "ca", bench.clock()) == 4
    assert places(bench) == 0
    bench.clock.advance(minutes=61)
    wait_until(lambda: begun(bench) == 4, "the other two")


@pytest.mark.usefixtures("_hasty")
def test_an_order_of_many_addresses_is_passed_by_nobody_and_begins_in_the_next_hour(
    make_orders: MakeOrderBench,
) -> None:
    bench = make_orders(mailboxes=3, aliases=2, policy=SAME, authority={"limits": {"mails_per_hour": 3}})
    bench.site.authority.set_knobs(MAIL_LOSS=100, RETRY_AFTER="none")
    with_aliases, first, last = bench.addresses
    bench.step(bench.open(first))
    second = bench.open(with_aliases)
    bench.clock.advance(seconds=1)
    third = bench.open(last)
    turns = Turns(lambda: bench.config, bench.pacer)
    with bench.database.read() as connection:
        assert turns.to_begin(connection, bench.clock(), 5, ()) == []
        bench.clock.advance(minutes=61)
        assert turns.to_begin(connection, bench.clock(), 5, ()) == [(second.id, "ca")]
    assert bench.get(third.id).state is State.PLANNED


@pytest.mark.usefixtures("_hasty")
def test_an_order_of_more_addresses_than_an_hour_allows_begins_alone(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=2, aliases=3, policy=SAME, authority={"limits": {"mails_per_hour": 2}})
    bench.site.authority.set_knobs(MAIL_LOSS=100, RETRY_AFTER="none")
    ids = bench.open_all()
    bench.start_scheduler()
    bench.await_state(ids[0], State.AWAITING_MAIL)  # it is placed, and counted for the last time
    assert bench.get(ids[1]).state is State.PLANNED
    assert places(bench) < 0
    bench.clock.advance(minutes=61)
    bench.await_state(ids[1], State.AWAITING_MAIL)


def test_an_order_that_is_asked_for_again_needs_room_for_all_of_its_addresses(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=2, aliases=2, policy=SAME, authority={"limits": {"mails_per_hour": 3}})
    outage = bench.step(bench.open())
    assert len(outage.aliases) == 2
    bench.clock.advance(minutes=61)
    other = bench.step(bench.open(bench.addresses[1]))

    def admitted() -> bool:
        with bench.database.write() as connection:
            return bench.pacer.admits_again(connection, bench.get(outage.id), bench.clock())

    assert not admitted()
    assert bench.pacer.is_counted(other, bench.clock())
    bench.clock.advance(minutes=61)
    assert admitted()
