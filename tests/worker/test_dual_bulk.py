# SPDX-License-Identifier: GPL-3.0-or-later
"""Bulk runs for mailboxes with a certificate to sign and one to encrypt: done when both are, repeated by halves."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.enrollment.model import State
from acme_milter.report.plan import Selection, make_plan
from acme_milter.store import bulk_items, revocations
from acme_milter.store.bulk_items import Outcome
from acme_milter.store.bulk_runs import Kind
from acme_milter.worker.bulk_feeder import BulkFeeder
from tests.worker.conftest import MakeOrderBench
from tests.worker.dual_orders import (
    ask,
    finish,
    finish_all,
    make_pair,
    outcome,
    run_of,
    states,
    the_open_one,
)
from tests.worker.order_bench import OrderBench

DUAL, SIGN, ENCRYPT = KeyUsageKind.DUAL, KeyUsageKind.SIGN, KeyUsageKind.ENCRYPT
PAIR = {"certificate": {"layout": "dual"}}


def test_a_bulk_runs_mailbox_is_done_when_it_has_both(make_orders: MakeOrderBench) -> None:
    bench = make_pair(make_orders)
    feeder = run_of(bench, Kind.ISSUE)
    feeder.feed()
    for _ in range(2):
        assert outcome(bench) == Outcome.OPEN
        one = the_open_one(bench)
        assert one is not None
        finish(bench, one)
        feeder.feed()
    assert outcome(bench) == Outcome.ACTIVE


def test_a_bulk_runs_mailbox_has_failed_when_either_has(make_orders: MakeOrderBench) -> None:
    bench = make_pair(make_orders)
    feeder = run_of(bench, Kind.ISSUE)
    feeder.feed()
    one = the_open_one(bench)
    assert one is not None
    finish(bench, one)
    feeder.feed()
    bench.site.authority.set_knobs(CERT="wrongkey")
    finish_all(bench)
    feeder.feed()
    assert outcome(bench) == Outcome.FAILED


def test_a_bulk_run_replaces_and_revokes_what_the_plan_says_of_both(make_orders: MakeOrderBench) -> None:
    bench = make_pair(make_orders)
    ask(bench)
    finish_all(bench)
    old = {stored.usage: stored.id for stored in bench.certificates()}
    with bench.database.read() as connection:
        selection = Selection(issued_before=bench.clock() + timedelta(days=1))
        (item,) = make_plan(connection, bench.config, bench.clock(), selection, kind=Kind.REPLACE).items
    assert (item.replaces_id, item.also_replaces_id, item.orders) == (old[SIGN], old[ENCRYPT], 2)
    feeder = run_of(bench, Kind.REPLACE, replaces_id=item.replaces_id, also_replaces_id=item.also_replaces_id)
    feeder.feed()
    assert [one.usage for one in finish_all(bench)] == [SIGN, ENCRYPT]
    feeder.feed()
    assert outcome(bench) == Outcome.ACTIVE
    with bench.database.read() as connection:
        asked = {one.certificate_id for one in revocations.undone(connection)}
    assert asked == set(old.values())


def replacing(bench: OrderBench) -> tuple[BulkFeeder, dict[KeyUsageKind, str]]:
    """A run that replaces a mailbox's two certificates, whose ids by use are these, and has begun."""
    ask(bench)
    finish_all(bench)
    old = {stored.usage: stored.id for stored in bench.certificates()}
    feeder = run_of(bench, Kind.REPLACE, replaces_id=old[SIGN], also_replaces_id=old[ENCRYPT])
    feeder.feed()
    return feeder, old


def revoked(bench: OrderBench) -> set[str]:
    with bench.database.read() as connection:
        return {one.certificate_id for one in revocations.undone(connection)}


@pytest.mark.parametrize("change", [{}, {**PAIR, "mode": "observe"}])
def test_a_run_takes_nothing_away_whose_place_nothing_has_taken(
    make_orders: MakeOrderBench, change: dict[str, object]
) -> None:
    bench = make_pair(make_orders)
    feeder, old = replacing(bench)
    first = the_open_one(bench)
    assert first is not None
    issued = bench.step_until(bench.answer_mail(bench.step_until(first, State.AWAITING_MAIL)), State.ISSUED)
    bench.change_policy(**change)
    bench.step_until(issued, State.ACTIVE)
    assert the_open_one(bench) is None
    feeder.feed()
    assert outcome(bench) == Outcome.FAILED
    assert states(bench) == {SIGN: [State.SUPERSEDED, State.ACTIVE], ENCRYPT: [State.ACTIVE]}
    assert revoked(bench) == {old[SIGN]}


@pytest.mark.parametrize("broken", [SIGN, ENCRYPT])
def test_a_run_that_is_repeated_orders_the_half_that_failed(make_orders: MakeOrderBench, broken: KeyUsageKind) -> None:
    bench = make_pair(make_orders)
    feeder, old = replacing(bench)
    for usage in (SIGN, ENCRYPT):
        if usage is broken:
            bench.site.authority.set_knobs(CERT="wrongkey")
        one = the_open_one(bench)
        assert one is not None
        assert (finish(bench, one).state, one.usage) == (State.FAILED if usage is broken else State.ACTIVE, usage)
        bench.site.authority.reset_knobs()
    feeder.feed()
    assert outcome(bench) == Outcome.FAILED
    with bench.database.write() as connection:
        assert bulk_items.wait_again(connection, "run-1", cause=None, limit=9) == 1
        connection.execute(sa.text("UPDATE bulk_run SET state = 'running'"))
    feeder.feed()
    assert [(one.usage, one.replaces_id) for one in finish_all(bench)] == [(broken, old[broken])]
    feeder.feed()
    assert outcome(bench) == Outcome.ACTIVE
    assert revoked(bench) == set(old.values())
