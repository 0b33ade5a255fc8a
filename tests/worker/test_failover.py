# SPDX-License-Identifier: GPL-3.0-or-later
"""Failover between two real test CAs under load, and who is moved, where to, and who is not."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from acme_milter.enrollment.model import Cause, Enrollment, State
from acme_milter.lab.organization import fill
from acme_milter.lab.processes import wait_until
from acme_milter.store import authority_health, bulk_runs, enrollments, pauses, renewals
from acme_milter.store.authority_health import Health
from acme_milter.store.bulk_items import Outcome
from acme_milter.store.renewals import Renewal
from acme_milter.store.schema import audit, bulk_item, enrollment
from acme_milter.worker.background import Background
from acme_milter.worker.choice import Choosing
from acme_milter.worker.enrolling import Enrolling
from acme_milter.worker.failover import follow
from acme_milter.worker.scheduler import Scheduler
from tests.fresh_store import open_store
from tests.worker.bulk_desk import BRANCH, DOMAINS, NOW, Desk, TickingClock, configured, count
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import OrderBench
from tests.worker.second_authority import SecondAuthority
from tests.worker.site import Site

BOTH = {"authorities": ["ca", "second"]}


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acme_milter.enrollment.backoff.STEP_FIRST", timedelta(milliseconds=20))
    monkeypatch.setattr("acme_milter.enrollment.backoff.STEP_LONGEST", timedelta(milliseconds=200))
    monkeypatch.setattr("acme_milter.enrollment.backoff.POLL_FIRST", timedelta(milliseconds=50))
    monkeypatch.setattr("acme_milter.worker.scheduler.LOOK_AGAIN", 0.05)


@pytest.fixture
def second(site: Site, tmp_path: Path) -> Iterator[SecondAuthority]:
    with SecondAuthority(site, tmp_path / "second") as running:
        yield running


def every(bench: OrderBench, *conditions: sa.ColumnElement[bool]) -> list[Enrollment]:
    with bench.database.read() as connection:
        ids = connection.execute(sa.select(enrollment.c.id).where(*conditions)).scalars().all()
    return [bench.get(one) for one in ids]


def number(bench: OrderBench, *states: State) -> int:
    return len(every(bench, enrollment.c.state.in_([state.value for state in states])))


def put(bench: OrderBench, health: Health) -> None:
    with bench.database.write() as connection:
        authority_health.put(connection, health)


def health(bench: OrderBench, authority: str = "ca") -> Health:
    with bench.database.read() as connection:
        return authority_health.of_all(connection).get(authority, Health(authority=authority))


def broken(bench: OrderBench, authority: str = "ca", **changes: object) -> None:
    now = bench.clock()
    facts = {"failures": 5, "failed_at": now, "last_error": "timeout", "open_since": now, "openings": 1}
    put(bench, Health(authority=authority, **{**facts, "probe_at": now + timedelta(minutes=1), **changes}))  # type: ignore[arg-type]  # a test's keywords


def enroll(bench: OrderBench, *addresses: str, **more: object) -> list[dict[str, object]]:
    asking = Enrolling(
        config=lambda: bench.config,
        database=bench.database,
        clock=bench.clock,
        work_is_due=lambda: None,
        choosing=bench.choosing,
    )
    results = asking.answer({"addresses": list(addresses), **more})["results"]
    assert isinstance(results, list)
    return results


def start(bench: OrderBench) -> Scheduler:
    """A worker's loop with its failover, as the role puts them together."""
    scheduler = bench.start_scheduler()
    scheduler.breaker.changed = bench.make_failover().look
    return scheduler


def issued(bench: OrderBench, *books: list[dict[str, object]]) -> Counter[str]:
    """How many certificates the CAs have made for each of the bench's mailboxes."""
    names = [str(name) for book in books for one in book for name in one["identifiers"]]  # type: ignore[attr-defined]  # JSON
    return Counter(name for name in names if name in bench.addresses)


@pytest.mark.usefixtures("_hasty")
def test_when_an_authority_fails_under_load_everybody_gets_one_certificate_and_it_gets_new_orders_once_healed(
    make_orders: MakeOrderBench, second: SecondAuthority
) -> None:
    bench = make_orders(
        mailboxes=26, authority={"limits": {"in_flight": 6}}, others={"second": second.settings},
        policy=BOTH, **second.surroundings,
    )  # fmt: skip
    first, *rest = bench.addresses[:24]
    start(bench)
    bench.await_state(str(enroll(bench, first)[0]["id"]), State.ACTIVE, timeout=20)
    bench.site.authority.set_knobs(MAIL_LOSS=100, RETRY_AFTER="none")
    enroll(bench, *rest)
    wait_until(lambda: number(bench, State.AWAITING_MAIL) == 6, "six under way", timeout=20)
    bench.site.authority.set_knobs(HTTP_5XX=100)
    # Those under way ask nothing just now: it is the next order that finds out, and there is no room for one.
    with bench.database.write() as connection:
        under_way = enrollment.c.state == State.AWAITING_MAIL.value
        connection.execute(enrollment.update().where(under_way).values(next_attempt_at=bench.clock()))
    wait_until(lambda: number(bench, State.ACTIVE) == 18, "the others at the second authority", timeout=60)
    assert health(bench).is_open
    stuck = every(bench, enrollment.c.state != State.ACTIVE.value)
    assert {(one.authority, one.state, one.successor_id) for one in stuck} == {("ca", State.AWAITING_MAIL, None)}
    assert {one.authority for one in every(bench, enrollment.c.state == State.ACTIVE.value)} == {"ca", "second"}

    # Whoever tries it needs a place there: those that are stuck have taken up all.
    bench.configure({"limits": {"in_flight": 8}}, {"second": second.settings})
    prober = bench.make_prober()
    put(bench, dataclasses.replace(health(bench), probe_at=bench.clock()))
    prober.look()
    assert health(bench).wants_trial  # it answers questions all the time, and takes no orders
    tried = str(enroll(bench, bench.addresses[24])[0]["id"])
    assert bench.await_state(tried, State.ACTIVE, timeout=20).authority == "second"
    assert health(bench).openings == 2

    bench.site.authority.reset_knobs()
    put(bench, dataclasses.replace(health(bench), probe_at=bench.clock()))
    prober.look()
    back = str(enroll(bench, bench.addresses[25])[0]["id"])
    assert bench.await_state(back, State.ACTIVE, timeout=20).authority == "ca"
    assert not health(bench).is_open
    # What was under way went on where it was: its mails are lost, and its next orders are the healed one's again.
    assert {bench.get(one.id).authority for one in stuck} == {"ca"}
    assert enroll(bench, rest[-1])[0]["outcome"] == "already-active"  # healing alone replaces nothing
    books = issued(bench, bench.site.authority.certificates(), second.lab.certificates())
    assert set(books.values()) == {1}
    assert len(books) == 20


@pytest.mark.usefixtures("_hasty")
def test_when_an_authority_is_killed_under_load_everybody_ends_with_one_certificate(
    make_orders: MakeOrderBench, second: SecondAuthority
) -> None:
    bench = make_orders(
        mailboxes=24, others={"second": {**second.settings, "limits": {"in_flight": 6}}},
        policy={"authorities": ["second", "ca"]}, minds_the_clock=True, **second.surroundings,
    )  # fmt: skip
    start(bench)
    first = [str(one["id"]) for one in enroll(bench, *bench.addresses[:4])]
    assert {one.authority for one in bench.await_end(first).values()} == {"second"}
    second.lab.set_knobs(MAIL_LOSS=100)
    rest = [str(one["id"]) for one in enroll(bench, *bench.addresses[4:])]
    wait_until(lambda: number(bench, State.AWAITING_MAIL) == 6, "six under way", timeout=20)
    killed = issued(bench, second.lab.certificates())
    second.lab.kill()
    with bench.database.write() as connection:
        under_way = enrollment.c.state == State.AWAITING_MAIL.value
        connection.execute(enrollment.update().where(under_way).values(next_attempt_at=bench.clock()))
    wait_until(lambda: number(bench, State.ACTIVE) == 18, "the others elsewhere", timeout=60)
    assert Counter(bench.get(one).authority for one in rest) == {"second": 6, "ca": 14}
    # A day later the six are over, and what follows them is ordered where it can be.
    bench.site.authority.set_clock(timedelta(hours=25).total_seconds())
    bench.clock.advance(hours=25)
    try:
        wait_until(lambda: number(bench, State.ACTIVE) == 24, "the last six", timeout=60)
    finally:
        bench.site.authority.set_clock(0)
    assert number(bench, State.FAILED) == 6
    books = killed + issued(bench, bench.site.authority.certificates())
    assert books == Counter(bench.addresses)


@pytest.mark.usefixtures("_hasty")
def test_with_one_authority_everything_waits_for_it_and_nothing_fails(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=3, others={"second": {}})
    bench.step(bench.open())  # registers the account
    bench.site.authority.set_knobs(HTTP_5XX=100, RETRY_AFTER="none")
    start(bench)
    ids = [str(one["id"]) for one in enroll(bench, *bench.addresses)]
    wait_until(lambda: health(bench).is_open, "the row of failures", timeout=20)
    assert {(bench.get(one).authority, bench.get(one).is_open) for one in ids} == {("ca", True)}
    bench.site.authority.reset_knobs()
    assert {one.state for one in bench.await_end(ids).values()} == {State.ACTIVE}
    assert not health(bench).is_open


def looked(bench: OrderBench, *, cause: Cause = Cause.ASKED, authority: str = "ca", **more: object) -> Enrollment:
    """What the chore leaves of an enrollment that is planned with an authority."""
    with bench.database.write() as connection:
        opened = enrollments.open_new(
            connection, address=bench.addresses[0], authority=authority, cause=cause, now=bench.clock(), **more,  # type: ignore[arg-type]  # a test's keywords
        )  # fmt: skip
    bench.make_failover().look()
    return bench.get(opened.id)


def test_a_pause_by_a_person_moves_what_has_not_begun_and_its_end_moves_it_back(make_orders: MakeOrderBench) -> None:
    bench = make_orders(others={"second": {}}, policy=BOTH)
    failover = bench.make_failover()
    with bench.database.write() as connection:
        pauses.pause(connection, "ca", "operator", bench.clock(), None)
    assert enroll(bench, bench.addresses[0])[0]["outcome"] == "opened"
    (opened,) = every(bench)
    assert opened.authority == "second"
    failover.look()
    with bench.database.write() as connection:
        pauses.resume(connection, "ca")
    failover.look()
    moved = bench.get(opened.id)
    assert (moved.authority, moved.state, moved.version) == ("ca", State.PLANNED, opened.version + 1)
    with bench.database.read() as connection:
        events = connection.execute(sa.select(audit.c.event).where(audit.c.enrollment_id == opened.id)).scalars().all()
    assert events == ["enrollment-opened", "enrollment-moved"]


def test_a_short_pause_moves_nobody(make_orders: MakeOrderBench) -> None:
    bench = make_orders(others={"second": {}}, policy=BOTH)
    with bench.database.write() as connection:
        pauses.pause(connection, "ca", "rateLimited", bench.clock(), bench.clock() + timedelta(minutes=14))
    assert looked(bench).authority == "ca"


def test_an_order_that_was_asked_for_without_an_answer_begins_anew_elsewhere(make_orders: MakeOrderBench) -> None:
    bench = make_orders(others={"second": {}}, policy=BOTH)
    ordering = bench.step(bench.open())
    broken(bench)
    bench.make_failover().look()
    moved = bench.get(ordering.id)
    assert (moved.authority, moved.state) == ("second", State.PLANNED)
    assert {moved.key_id, moved.began_ordering_at, moved.counted_at, moved.account_id} == {None}


def test_an_order_that_is_placed_stays(make_orders: MakeOrderBench) -> None:
    bench = make_orders(others={"second": {}}, policy=BOTH)
    bench.site.authority.set_knobs(MAIL_LOSS=100)
    placed = bench.step_until(bench.open(), State.AWAITING_MAIL)
    broken(bench)
    bench.make_failover().look()
    assert bench.get(placed.id) == placed
    # Nor does anybody open a second one beside it.
    assert enroll(bench, bench.addresses[0], again=True)[0] == {
        "address": bench.addresses[0], "outcome": "already-open", "id": placed.id,
    }  # fmt: skip


def test_an_authority_that_the_policy_does_not_list_was_named_by_somebody_and_is_kept(
    make_orders: MakeOrderBench,
) -> None:
    bench = make_orders(others={"second": {}, "third": {}}, policy=BOTH)
    broken(bench, "third")
    assert looked(bench, authority="third").authority == "third"


def test_a_mailbox_with_another_open_order_is_not_moved(make_orders: MakeOrderBench) -> None:
    bench = make_orders(others={"second": {}}, policy=BOTH)
    bench.open(authority="second")
    broken(bench)
    assert looked(bench).authority == "ca"


@pytest.mark.parametrize(("urgent_in", "authority"), [(30, "ca"), (-1, "second")], ids=["weeks-left", "urgent"])
def test_a_renewal_changes_its_authority_only_when_it_is_urgent(
    make_orders: MakeOrderBench, urgent_in: int, authority: str
) -> None:
    bench = make_orders(others={"second": {}}, policy=BOTH)
    urgent_at = bench.clock() + timedelta(days=urgent_in)
    row = Renewal(
        certificate_id="c", authority="ca", address=bench.addresses[0], due_at=bench.clock(), urgent_at=urgent_at
    )
    with bench.database.write() as connection:
        renewals.plan(connection, row)
    broken(bench)
    assert looked(bench, cause=Cause.RENEWAL, replaces_id="c").authority == authority


def test_a_successor_goes_to_the_authority_that_can_be_used_at_once(make_orders: MakeOrderBench) -> None:
    bench = make_orders(others={"second": {}}, policy=BOTH)
    bench.site.authority.set_knobs(MAIL_LOSS=100)
    awaiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    broken(bench)
    bench.clock.advance(minutes=31)
    failed = bench.step(awaiting)
    assert failed.successor_id is not None
    successor = bench.get(failed.successor_id)
    assert (successor.authority, successor.generation, successor.next_attempt_at) == (
        "second", 2, successor.opened_at,
    )  # fmt: skip


def test_a_move_that_dies_half_way_has_not_happened(
    make_orders: MakeOrderBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_orders(others={"second": {}}, policy=BOTH)
    opened = bench.open(authority="second")
    broken(bench, probe_at=None)

    def die(*_: object, **__: object) -> None:
        raise ConnectionError

    monkeypatch.setattr("acme_milter.worker.failover.audit.record", die)
    with pytest.raises(ConnectionError), bench.database.write() as connection:
        follow(connection, opened, bench.choosing, bench.clock(), lambda _: True)
    assert bench.get(opened.id) == opened
    assert health(bench).trial_id is None
    monkeypatch.undo()
    with bench.database.write() as connection:
        assert follow(connection, opened, bench.choosing, bench.clock(), lambda _: True) is not None
    assert (bench.get(opened.id).authority, health(bench).trial_id) == ("ca", opened.id)


def test_two_hosts_move_an_enrollment_once(make_orders: MakeOrderBench) -> None:
    bench = make_orders(others={"second": {}}, policy=BOTH)
    opened, hosts = bench.open(), [bench.make_failover(), bench.make_failover()]
    broken(bench)
    for host in hosts:
        host.look()
    assert bench.get(opened.id).version == opened.version + 1


@pytest.mark.parametrize(
    ("skews", "chosen"),
    [
        ({"ca": 3600, "second": 0}, "second"),
        ({"ca": 3600, "second": 3600}, "ca"),
        ({"ca": 3600}, "ca"),
        ({"ca": 60, "second": 0}, "ca"),
    ],
    ids=["its-clock-is-wrong", "ours-is-wrong", "nobody-else-has-been-heard", "a-minute-is-tolerated"],
)
def test_an_authority_with_a_wrong_clock_is_passed_over_where_another_one_agrees_with_ours(
    make_orders: MakeOrderBench, skews: dict[str, int], chosen: str
) -> None:
    bench = make_orders(others={"second": {}}, policy=BOTH)
    known = {name: timedelta(seconds=seconds) for name, seconds in skews.items()}
    choosing = Choosing(lambda: bench.config, known.get)
    policy = bench.config.policy_for(bench.addresses[0])
    assert policy is not None
    with bench.database.read() as connection:
        assert choosing.for_new(connection, policy, bench.clock(), Cause.ASKED) == chosen


def test_a_joiner_is_opened_with_the_authority_that_can_be_used(make_orders: MakeOrderBench) -> None:
    bench = make_orders(others={"second": {}}, policy=BOTH)
    opening: Background = bench.make_background()
    opening._joiners._waiting = dict.fromkeys(bench.addresses)
    broken(bench)
    assert opening._joiners.open_some("ca", 5) == 0
    assert list(opening._joiners._waiting) == bench.addresses  # the other authority's turn comes


def test_a_runs_items_go_elsewhere_while_their_authority_is_broken_and_its_plan_stays(tmp_path: Path) -> None:
    database = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    fill(database, mailboxes=20, certificates=2, now=NOW, domains=DOMAINS)
    desk = Desk(database, lambda: configured(tmp_path, database, authorities=["other", "ca"]), TickingClock())
    desk.open(BRANCH)
    with database.write() as connection:
        pauses.pause(connection, "other", "operator", NOW, None)
    desk.places = {"ca": 2, "other": 0}
    desk.feed()
    opened = [desk.enrollment_of(one) for one in BRANCH if desk.outcomes()[one] == Outcome.OPEN]
    assert [(one.authority, one.state) for one in opened] == [("ca", State.PLANNED)] * 2
    with database.write() as connection:
        pauses.resume(connection, "other")
    desk.places = {"ca": 0, "other": 3}
    desk.feed()
    also = {desk.enrollment_of(one).authority for one in BRANCH if desk.outcomes()[one] == Outcome.OPEN}
    assert also == {"ca", "other"}
    with database.read() as connection:
        assert set(connection.execute(sa.select(bulk_item.c.authority)).scalars()) == {"other"}
    database.close()


def test_a_run_stops_when_too_many_orders_fail_at_the_authority_that_stands_in(tmp_path: Path) -> None:
    database = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    fill(database, mailboxes=20, certificates=2, now=NOW, domains=DOMAINS)
    desk = Desk(database, lambda: configured(tmp_path, database, authorities=["other", "ca"]), TickingClock())
    desk.open(BRANCH)
    with database.write() as connection:
        pauses.pause(connection, "other", "operator", NOW, None)
    desk.places = {"ca": 3, "other": 0}
    desk.feed()
    for address in [one for one in BRANCH if desk.outcomes()[one] == Outcome.OPEN]:
        desk.fail(address)
    desk.feed()
    assert count(desk.outcomes(), Outcome.OPEN) == 0
    with database.read() as connection:
        run = bulk_runs.get(connection, "run-1")
    assert run is not None
    assert set(run.stopped) == {"ca"}
    database.close()
