# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of an order: finalize that is slow, fails or loses its answer, and certificates that nobody ordered."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from acme_milter.acme.problem import ServerBusy
from acme_milter.enrollment.model import State
from tests.worker.conftest import MakeOrderBench


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("wrongkey", "another key"),
        ("wrongsan", "not in the certificate's SAN"),
        ("expired", "has expired"),
        ("nochain", "chain"),
    ],
)
def test_a_certificate_that_was_not_ordered_is_never_stored(
    make_orders: MakeOrderBench, fault: str, words: str
) -> None:
    bench = make_orders()
    bench.site.authority.set_knobs(CERT=fault)
    awaiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    failed = bench.step_until(bench.answer_mail(awaiting), State.FAILED, State.ISSUED)
    assert failed.state is State.FAILED
    assert words in (failed.last_error or "")
    assert (failed.certificate_id, failed.successor_id, bench.certificates()) == (None, None, [])


def test_a_finalize_that_takes_its_time_is_polled(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    bench.site.authority.set_knobs(FINALIZE_ASYNC="on", FINALIZE_POLLS=3, RETRY_AFTER_SECONDS=17)
    awaiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    finalizing = bench.step_until(bench.answer_mail(awaiting), State.FINALIZING)
    sent = bench.step(finalizing)
    assert sent.finalize_sent_at is not None
    assert sent.next_attempt_at == sent.finalize_sent_at + timedelta(seconds=17)
    polled = bench.step(sent)
    assert (polled.state, polled.certificate_url) == (State.FINALIZING, None)
    assert bench.step_until(polled, State.ACTIVE).state is State.ACTIVE
    assert len(bench.happened("finalized")) == 1


def test_a_failed_finalize_is_tried_again_with_the_same_request(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    awaiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    finalizing = bench.step_until(bench.answer_mail(awaiting), State.FINALIZING)
    bench.site.authority.set_knobs(FINALIZE_500=100)
    with pytest.raises(ServerBusy):
        bench.step(finalizing)
    bench.site.authority.set_knobs(FINALIZE_500=0)
    assert bench.step_until(finalizing, State.ACTIVE).key_id == finalizing.key_id
    assert len(bench.certificates()) == 1


def test_an_answer_that_was_lost_after_finalize_is_found_by_looking(make_orders: MakeOrderBench) -> None:
    """K14, F-17: GET the order before a CSR is sent again."""
    bench = make_orders()
    awaiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    finalizing = bench.step_until(bench.answer_mail(awaiting), State.FINALIZING)
    bench.step(finalizing)  # and the worker dies before it saves that: the next one starts from `finalizing`
    with bench.database.write() as connection:
        connection.execute(
            sa.text("UPDATE enrollment SET version = :v, certificate_url = NULL"), {"v": finalizing.version}
        )
    assert bench.step_until(finalizing, State.ACTIVE).state is State.ACTIVE
    assert len(bench.happened("finalized")) == 1
