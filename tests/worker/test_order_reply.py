# SPDX-License-Identifier: GPL-3.0-or-later
"""An order whose reply does not get away, and one whose mail comes while it is being given up."""

import sqlalchemy as sa

from acme_milter.enrollment.conditions import Reason
from acme_milter.enrollment.model import Enrollment, State
from acme_milter.enrollment.state_machine import advance
from acme_milter.lab.processes import free_port, wait_until
from acme_milter.store import enrollments
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import OrderBench


def await_reply_due(bench: OrderBench, enrollment: Enrollment) -> Enrollment:
    return bench.await_state(enrollment.id, State.REPLYING)


def test_a_reply_that_postfix_does_not_take_is_shown_and_in_the_end_costs_the_order(
    make_orders: MakeOrderBench,
) -> None:
    bench = make_orders(reply_port=free_port())
    replying = await_reply_due(bench, bench.step_until(bench.open(), State.AWAITING_MAIL))
    (entry_id,) = bench.replies_due
    bench.responder.work_off(entry_id)
    waiting = bench.step(replying)
    assert waiting.state is State.REPLYING
    assert "refused" in (waiting.last_error or "")
    bench.clock.advance(hours=6, seconds=1)
    bench.responder.work_off(entry_id)
    failed = bench.step(waiting)
    assert failed.state is State.FAILED
    assert "the reply could not be handed to Postfix" in (failed.last_error or "")
    assert failed.successor_id is not None
    (at_ca,) = [found for found in bench.site.authority.orders() if found["identifiers"] == [failed.address]]
    assert [one["status"] for one in at_ca["authorizations"].values()] == ["deactivated"]


def test_an_order_is_ended_at_the_authority_only_when_that_is_committed_here(make_orders: MakeOrderBench) -> None:
    """The mail comes between the decision to give up and its commit: the answer stands, and the order goes on."""
    bench = make_orders()
    bench.site.authority.set_knobs(MAIL_DELAY=0.3)
    awaiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    bench.clock.advance(minutes=31)
    giving_up = bench.driver.take_step(awaiting)
    bench.clock.advance(minutes=-31)
    await_reply_due(bench, awaiting)
    try:
        with bench.database.write() as connection:
            enrollments.save(connection, advance(awaiting, giving_up.event, bench.clock()))
            giving_up.also(connection)
        saved = True
    except enrollments.StaleVersion:
        saved = False
    assert not saved
    assert bench.step_until(bench.answer_mail(awaiting), State.ACTIVE).state is State.ACTIVE


def test_a_foreign_challenge_from_the_fixed_sender_helps_nobody_and_ours_still_succeeds(
    make_orders: MakeOrderBench,
) -> None:
    """T02: both are answered with our part of the token, and only one of them is about our order."""
    bench = make_orders()
    bench.site.authority.set_knobs(MAIL_FROM="fixed", MAIL_FOREIGN=100)
    awaiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    wait_until(lambda: len(bench.replies_due) == 2, "both answers")
    assert [one.reason for one in bench.site.mx.decisions[awaiting.address]] == [Reason.ACCEPTED] * 2
    for entry_id in list(bench.replies_due):
        bench.responder.work_off(entry_id)
    assert bench.step_until(bench.get(awaiting.id), State.ACTIVE).state is State.ACTIVE
    with bench.database.read() as connection:
        swallowed = connection.execute(sa.text("SELECT count(*) FROM challenge_mail")).scalar_one()
    assert swallowed == 2  # T04: each mail that was kept out of the inbox is kept here


def test_a_reply_that_is_read_after_half_an_hour_is_in_time(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    bench.site.authority.set_knobs(REPLY_READ_DELAY=3)
    validating = bench.step_until(
        bench.answer_mail(bench.step_until(bench.open(), State.AWAITING_MAIL)), State.VALIDATING
    )
    with bench.moved_ahead(minutes=35):
        looked = bench.step(validating)
    assert looked.is_open
    wait_until(lambda: bool(bench.happened("validated")), "the reply to be read")
    assert bench.step_until(looked, State.ACTIVE, State.FAILED).state is State.ACTIVE


def test_a_foreign_challenge_after_the_order_ended_is_delivered(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    awaiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    active = bench.step_until(bench.answer_mail(awaiting), State.ACTIVE)
    bench.site.authority.send_mail(active.address, "foreign")
    wait_until(lambda: len(bench.site.mx.decisions[active.address]) == 2, "the foreign mail")
    assert bench.site.mx.decisions[active.address][1].reason == Reason.UNSOLICITED
    assert bench.replies_due == []


def test_forged_challenges_are_delivered_while_an_order_is_open(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    bench.site.authority.set_knobs(MAIL_LOSS=100)
    awaiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    for kind in ("forged-unsigned", "forged-other-domain"):
        bench.site.authority.send_mail(awaiting.address, kind, **{"from": awaiting.challenge_sender})
    wait_until(lambda: len(bench.site.mx.decisions.get(awaiting.address, [])) == 2, "both")
    assert {one.disposition for one in bench.site.mx.decisions[awaiting.address]} == {"accept"}
    assert bench.get(awaiting.id) == awaiting
