# SPDX-License-Identifier: GPL-3.0-or-later
"""The feeder on a real store: room, pauses, stops; and with a CA, replacement and what it refuses."""

from datetime import timedelta
from typing import Any

from acme_milter.enrollment.model import Cause, State
from acme_milter.enrollment.state_machine import Cancelled, advance
from acme_milter.lab.processes import wait_until
from acme_milter.report.bulk_progress import bulk_status
from acme_milter.store import bulk_items, enrollments, revocations, withdrawals
from acme_milter.store.bulk_items import Outcome
from acme_milter.store.bulk_runs import RunState
from acme_milter.store.plan_facts import active_of
from tests.delivery.put_there import put_there, why_withdrawn
from tests.worker.bulk_desk import BRANCH, NOW, ORG, Desk, count
from tests.worker.conftest import MakeOrderBench


def test_as_many_are_opened_as_there_is_room_for(desk: Desk) -> None:
    desk.open(ORG)
    assert count(desk.feed(), Outcome.OPEN) == 3
    assert count(desk.feed(), Outcome.OPEN) == 3
    opened = desk.enrollment_of(ORG[0])
    assert (opened.cause, opened.bulk_run_id, opened.principal) == (Cause.BULK, "run-1", "staff:2")
    desk.move(ORG[0], State.ACTIVE)
    outcomes = desk.feed()
    assert outcomes[ORG[0]] == "active"
    assert count(outcomes, Outcome.OPEN) == 3


def test_whoever_comes_after_a_crash_just_goes_on(desk: Desk) -> None:
    desk.open(ORG)
    desk.feed()
    desk.move(ORG[0], State.ACTIVE)
    after = Desk(desk.database, desk.config, desk.now)
    outcomes = after.feed()
    assert outcomes[ORG[0]] == "active"
    assert count(outcomes, Outcome.OPEN) == 3


def test_an_authority_without_room_holds_up_its_own_only(desk: Desk) -> None:
    desk.places["ca"] = 0
    desk.open([*ORG, *BRANCH])
    outcomes = desk.feed()
    assert {address for address, outcome in outcomes.items() if outcome == "open"} == set(BRANCH[:3])


def test_renewals_that_wait_for_their_own_pace_keep_no_run_from_going_on(desk: Desk) -> None:
    with desk.database.write() as connection:
        for number in range(5):
            address = f"later{number}@org.example"
            enrollments.open_new(connection, address=address, authority="ca", now=desk.now(), cause=Cause.RENEWAL)
    desk.open(ORG)
    assert count(desk.feed(), Outcome.OPEN) == 3


def test_a_paused_run_opens_nothing_and_what_is_open_ends(desk: Desk) -> None:
    desk.open(ORG)
    desk.feed()
    assert desk.call("pause") == {"run": "run-1", "state": "paused"}
    desk.move(ORG[0], State.ACTIVE)
    outcomes = desk.feed()
    assert outcomes[ORG[0]] == "active"
    assert count(outcomes, Outcome.OPEN) == 2
    desk.call("resume")
    assert count(desk.feed(), Outcome.OPEN) == 3


def test_a_run_is_done_when_every_mailbox_has_its_outcome(desk: Desk) -> None:
    desk.open(ORG[:2])
    desk.feed()
    for address in ORG[:2]:
        assert desk.state() is RunState.RUNNING
        desk.move(address, State.ACTIVE)
        desk.feed()
    assert desk.state() is RunState.DONE


def test_a_failed_order_with_a_successor_is_tried_on(desk: Desk) -> None:
    desk.open(ORG[:1])
    desk.feed()
    desk.fail(ORG[0], "mailbox over quota", again=True)
    assert desk.feed() == {ORG[0]: "retrying"}
    assert desk.reason(ORG[0]) == "mailbox over quota"
    desk.move(ORG[0], State.ACTIVE)
    assert desk.feed() == {ORG[0]: "active"}
    assert desk.state() is RunState.DONE


def test_a_cancelled_order_is_a_failure_with_its_reason(desk: Desk) -> None:
    desk.open(ORG[:1])
    desk.feed()
    with desk.database.write() as connection:
        before = desk.enrollment_of(ORG[0])
        enrollments.save(connection, advance(before, Cancelled(last_error="the mailbox left"), NOW))
    assert desk.feed() == {ORG[0]: "failed"}
    assert desk.reason(ORG[0]) == "the mailbox left"


def test_too_many_failures_stop_the_run_with_that_authority_alone(desk: Desk) -> None:
    desk.open([*ORG, *BRANCH])
    desk.feed()
    for address in ORG[:3]:
        desk.fail(address)
    desk.move(BRANCH[0], State.ACTIVE)
    outcomes = desk.feed()
    assert [outcomes[address] for address in ORG[:4]] == ["failed", "failed", "failed", "waiting"]
    assert outcomes[BRANCH[3]] == "open"
    assert desk.state() is RunState.RUNNING
    with desk.database.read() as connection:
        shown = bulk_status(connection, desk.config(), NOW)
    assert shown["run"]["stopped"] == {  # type: ignore[index]  # JSON
        "ca": "3 orders failed within an hour (authorities.ca.limits.failed_per_hour)"
    }
    assert shown["next"] == "acme-milter bulk resume run-1"


def test_a_run_that_has_stopped_goes_on_when_a_person_says_so(desk: Desk) -> None:
    desk.open(ORG)
    desk.feed()
    for address in ORG[:3]:
        desk.fail(address)
    desk.feed()
    assert desk.state() is RunState.STOPPED
    assert count(desk.feed(), Outcome.OPEN) == 0
    desk.advance(timedelta(hours=2))
    assert count(desk.feed(), Outcome.OPEN) == 0  # the hour is over, but nobody has looked at it
    desk.call("resume")
    assert count(desk.feed(), Outcome.OPEN) == 3


def test_what_failed_is_ordered_again_by_cause(desk: Desk) -> None:
    desk.open(ORG[:2])
    desk.feed()
    desk.fail(ORG[0], "mailbox over quota")
    desk.fail(ORG[1], "something else")
    desk.feed()
    assert desk.state() is RunState.DONE
    assert desk.call("retry", cause="Quota") == {"run": "run-1", "again": 1}
    assert desk.feed() == {ORG[0]: "open", ORG[1]: "failed"}


def test_a_renewal_that_came_first_still_has_the_old_one_revoked(desk: Desk) -> None:
    old = "user0@org.example"
    with desk.database.read() as connection:
        certificate_id = active_of(connection, [old])[old][0].certificate_id
    put_there(desk.database, certificate_id, old, NOW)
    desk.open([old], replaces=True, kind="replace", revoke=1)
    desk.move(old, State.SUPERSEDED)
    assert desk.feed() == {old: "skipped"}
    with desk.database.read() as connection:
        asked = revocations.get(connection, certificate_id)
    assert asked is not None
    assert asked.reason == 1
    assert why_withdrawn(desk.database, certificate_id) == withdrawals.REVOKED


def test_a_plan_that_names_what_is_not_there_or_not_the_mailboxs_revokes_nothing(desk: Desk) -> None:
    stranger, mine = "user0@org.example", ORG[0]
    with desk.database.read() as connection:
        others = active_of(connection, [stranger])[stranger][0].certificate_id
    desk.move(stranger, State.SUPERSEDED)
    member = desk.config().member(mine)
    assert member is not None
    for number, replaced in enumerate((others, "of-another-store")):
        item = [mine, "ca", member.principal, replaced]
        desk.call("open", run=f"run-{number}", kind="replace", revoke=1, items=[item], start=0, last=True)
        desk.feed()
        assert desk.outcomes(f"run-{number}") == {mine: "skipped"}
    with desk.database.read() as connection:
        assert revocations.get(connection, others) is None


def test_replacing_supersedes_and_only_then_revokes(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=2)
    bench.start_scheduler()
    bench.await_end(bench.open_all())
    before = {stored.address: stored for stored in bench.certificates()}
    desk = Desk(bench.database, lambda: bench.config, bench.clock)
    for address, stored in before.items():
        put_there(bench.database, stored.id, address, bench.clock())
    desk.open(bench.addresses, replaces=True, kind="replace", revoke=1)
    desk.feed()
    with bench.database.read() as connection:
        assert all(revocations.get(connection, stored.id) is None for stored in before.values())
    wait_until(lambda: count(desk.feed(), Outcome.ACTIVE) == 2, "the new certificates")
    for address, stored in before.items():
        assert bench.get(stored.enrollment_id).state is State.SUPERSEDED
        with bench.database.read() as connection:
            current = active_of(connection, [address])[address]
            asked = revocations.get(connection, stored.id)
        assert [one.certificate_id for one in current] != [stored.id]
        assert asked is not None
        assert asked.reason == 1
        assert why_withdrawn(bench.database, stored.id) == withdrawals.REVOKED
    assert desk.state() is RunState.DONE


def test_a_ca_that_refuses_stops_the_run_and_is_shown_by_cause(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=5, authority={"limits": {"failed_per_hour": 2}})
    bench.site.authority.set_knobs(REFUSE_ADDRESS=",".join(bench.addresses))
    bench.start_scheduler()
    desk = Desk(bench.database, lambda: bench.config, bench.clock)
    desk.places["ca"] = 2
    desk.open(bench.addresses)

    def stopped() -> bool:
        desk.feed()
        return desk.state() is RunState.STOPPED

    wait_until(stopped, "the run to stop")
    desk.feed()  # the last one may have failed between the two halves of a round
    with bench.database.read() as connection:
        shown = bulk_status(connection, bench.config, bench.clock())
        assert bulk_items.has(connection, "run-1", {Outcome.WAITING})
    causes: list[Any] = [*shown["failures"], *shown["retrying"]]  # type: ignore[misc]  # JSON
    assert len(causes) == 1
    assert causes[0]["number"] >= 2
    assert "rejectedIdentifier" in causes[0]["cause"]
