# SPDX-License-Identifier: GPL-3.0-or-later
"""A renewal against the test CA: its row, what it replaces, whose key it gets, and what a person asks for."""

import dataclasses
from datetime import timedelta

import pytest
import sqlalchemy as sa

from acme_milter.enrollment.model import Cause, Enrollment, State
from acme_milter.enrollment.renewal import day_of
from acme_milter.store import bulk_runs, certificates, enrollments, mailbox_keys, mailboxes, renewals, revocations
from acme_milter.store.bulk_runs import BulkRun, Kind, RunState
from acme_milter.store.renewals import Renewal
from acme_milter.worker.renewer import Renewer, plan
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import OrderBench


def certified(bench: OrderBench, enrollment: Enrollment | None = None) -> Enrollment:
    """An enrollment taken all the way to its certificate."""
    awaiting = bench.step_until(enrollment or bench.open(), State.AWAITING_MAIL)
    return bench.step_until(bench.answer_mail(awaiting), State.ACTIVE)


def renew(bench: OrderBench, old: Enrollment, **changes: str) -> Enrollment:
    with bench.database.write() as connection:
        return enrollments.open_new(
            connection,
            address=old.address,
            principal=changes.get("principal", old.principal),
            authority=old.authority,
            cause=Cause.RENEWAL,
            replaces_id=old.certificate_id,
            bulk_run_id=changes.get("bulk_run_id"),
            now=bench.clock(),
        )


def row_of(bench: OrderBench, enrollment: Enrollment) -> Renewal | None:
    assert enrollment.certificate_id is not None
    with bench.database.read() as connection:
        return renewals.get(connection, enrollment.certificate_id)


def renewer(bench: OrderBench) -> Renewer:
    return Renewer(config=lambda: bench.config, database=bench.database, clock=bench.clock, work_is_due=lambda: None)


def test_an_active_certificate_has_a_row_and_its_successor_takes_the_place(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    first = certified(bench)
    row = row_of(bench, first)
    assert row is not None
    (stored,) = bench.certificates()
    latest = stored.not_before + 0.67 * (stored.not_after - stored.not_before)
    assert latest - timedelta(days=2) < row.due_at <= latest  # nobody else is there, so as late as planned
    assert row.urgent_at == stored.not_after - timedelta(days=14)
    second = certified(bench, renew(bench, first))
    assert bench.get(first.id).state is State.SUPERSEDED
    assert row_of(bench, first) is None
    new_row = row_of(bench, second)
    assert new_row is not None
    with bench.database.read() as connection:
        assert renewals.by_day(connection, "ca", 0, 10**6) == {day_of(new_row.due_at): 1}


def test_a_renewal_says_what_it_replaces_and_survives_the_409(make_orders: MakeOrderBench) -> None:
    """RFC 9773 §5."""
    bench = make_orders()
    first = certified(bench)
    certified(bench, renew(bench, first))
    _, replacing = bench.happened("order")
    assert replacing["replaces"] is not None
    again = certified(bench, renew(bench, first))  # it has been replaced already
    assert again.state is State.ACTIVE
    assert bench.happened("order")[-1]["replaces"] is None


def test_an_authority_without_renewal_information_hears_of_no_replacement(make_orders: MakeOrderBench) -> None:
    bench = make_orders(authority={"use_ari": False})
    certified(bench, renew(bench, certified(bench)))
    assert [one["replaces"] for one in bench.happened("order")] == [None, None]


@pytest.mark.parametrize(("policy", "same"), [("rotate", False), ("reuse", True)])
def test_the_key_is_rotated_or_reused_by_policy_and_the_old_one_kept(
    make_orders: MakeOrderBench, policy: str, same: bool
) -> None:
    bench = make_orders(renewal={"key": policy})
    first = certified(bench)
    second = certified(bench, renew(bench, first))
    assert (second.key_id == first.key_id) is same
    assert first.key_id is not None
    with bench.database.read() as connection:
        assert mailbox_keys.get(connection, first.key_id).principal == first.principal


def test_no_other_person_gets_the_key(make_orders: MakeOrderBench) -> None:
    bench = make_orders(renewal={"key": "reuse"})
    first = certified(bench)
    second = bench.step(renew(bench, first, principal="ad:somebody-new"))
    assert second.key_id != first.key_id


def test_a_key_whose_request_spells_the_mailbox_differently_is_not_reused(make_orders: MakeOrderBench) -> None:
    """RFC 8555 §7.4: the request must name exactly what was ordered, and the kept one names the old spelling."""
    bench = make_orders(renewal={"key": "reuse"})
    first = certified(bench)
    spelled = first.address.capitalize()
    with bench.database.write() as connection:
        mailboxes.respell(connection, first.address, spelled)
    again = bench.get(first.id)
    assert again.address == spelled
    assert bench.step(renew(bench, again)).key_id != first.key_id


def test_a_key_of_another_algorithm_is_not_reused(make_orders: MakeOrderBench) -> None:
    bench = make_orders(renewal={"key": "reuse"})
    first = certified(bench)
    with bench.database.write() as connection:
        connection.execute(sa.text("UPDATE mailbox_key SET algorithm = 'rsa3072'"))
    assert bench.step(renew(bench, first)).key_id != first.key_id


def test_a_compromised_key_is_not_reused(make_orders: MakeOrderBench) -> None:
    bench = make_orders(renewal={"key": "reuse"})
    first = certified(bench)
    with bench.database.write() as connection:
        assert first.certificate_id is not None
        revocations.ask(connection, certificates.get(connection, first.certificate_id), 1, bench.clock(), by="test")
    assert bench.step(renew(bench, first)).key_id != first.key_id


@pytest.mark.parametrize(("reason", "same"), [(1, False), (4, True), (None, True)])
def test_a_bulk_run_that_revokes_for_a_compromised_key_reuses_none(
    make_orders: MakeOrderBench, reason: int | None, same: bool
) -> None:
    """The run revokes when the successor is there, so no revocation tells of the key yet (RFC 5280 §5.3.1)."""
    bench = make_orders(renewal={"key": "reuse"})
    first = certified(bench)
    run = BulkRun(
        id="run", kind=Kind.REPLACE, state=RunState.RUNNING, description="", created_at=bench.clock(),
        counted_from=bench.clock(), stopped={}, revoke_reason=reason,
    )  # fmt: skip
    with bench.database.write() as connection:
        bulk_runs.insert(connection, run)
    assert (bench.step(renew(bench, first, bulk_run_id="run")).key_id == first.key_id) is same


def test_a_renewal_that_a_worker_died_in_loses_nothing(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    first = certified(bench)
    underway = bench.step_until(renew(bench, first), State.AWAITING_MAIL)
    bench.restart()
    renewed = bench.step_until(bench.answer_mail(bench.get(underway.id)), State.ACTIVE)
    assert bench.get(first.id).state is State.SUPERSEDED
    assert row_of(bench, renewed) is not None
    assert len(bench.happened("order")) == 2


def test_a_person_renews_at_once_what_has_a_certificate(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=2)
    first = certified(bench)
    asked = [first.address.upper(), bench.addresses[1], "nobody@elsewhere.example"]
    answer = renewer(bench).answer({"call": "renew", "addresses": asked})
    results = answer["results"]
    assert isinstance(results, list)
    assert [one["outcome"] for one in results] == ["opened", "no-certificate", "not-managed"]
    opened = bench.get(results[0]["id"])
    assert (opened.cause, opened.replaces_id) == (Cause.ASKED, first.certificate_id)
    row = row_of(bench, first)
    assert row is not None
    assert row.opened_at is not None
    again = renewer(bench).answer({"call": "renew", "addresses": [first.address]})
    assert again["results"] == [{"address": first.address, "outcome": "already-open", "id": opened.id}]


def test_a_certificate_whose_time_seems_to_have_come_as_it_arrives_is_not_renewed_at_once(
    make_orders: MakeOrderBench,
) -> None:
    """The authority has dated it back, or lets all of them end on one day."""
    bench = make_orders()
    certified(bench)
    (stored,) = bench.certificates()
    dated_back = dataclasses.replace(stored, not_before=stored.not_before - timedelta(days=3650))
    with bench.database.write() as connection:
        assert plan(connection, bench.config, dated_back, bench.clock()).due_at == stored.stored_at + timedelta(days=1)
