# SPDX-License-Identifier: GPL-3.0-or-later
"""Challenges that come again, at once, as several, or when the order is over."""

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest

from acme_milter.enrollment.conditions import Reason
from acme_milter.enrollment.model import State
from acme_milter.worker.intake import Decision
from tests.protocol.sample_mail import NOW, SignatureSpec, ed25519_key, good_mail
from tests.worker.conftest import MakeBench
from tests.worker.intake_bench import IntakeBench, digest_in, expected_digest, token


def at_once(*calls: Callable[[], Decision]) -> list[Decision]:
    """Make the calls in threads that start together."""
    barrier = threading.Barrier(len(calls))
    found: list[Decision] = []

    def run(call: Callable[[], Decision]) -> None:
        barrier.wait()
        found.append(call())

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_a_second_copy_is_swallowed_and_not_answered_again(bench: IntakeBench) -> None:
    raw = good_mail().signed()
    assert bench.decide(raw).reason == Reason.ACCEPTED
    # A retransmission with other Received lines, and a copy signed anew.
    for copy in (raw, b"Received: from elsewhere\r\n" + raw, good_mail().signed(SignatureSpec(key=ed25519_key()))):
        assert bench.decide(copy) == Decision("discard", Reason.ANSWERED_ALREADY)
    assert len(bench.replies_due) == 1


def test_a_second_copy_without_proof_is_delivered(bench: IntakeBench) -> None:
    assert bench.decide().reason == Reason.ACCEPTED
    assert bench.decide(good_mail().raw()) == Decision("accept", "dkim-none")


def test_the_same_mail_at_two_hosts_at_once_is_answered_once(bench: IntakeBench) -> None:
    decisions = at_once(*[bench.decide] * 4)
    assert {decision.disposition for decision in decisions} == {"discard"}
    reasons = sorted(decision.reason for decision in decisions)
    assert reasons == [Reason.ACCEPTED, *[Reason.ANSWERED_ALREADY] * 3]
    assert len(bench.replies_due) == 1


def test_of_many_different_challenges_at_once_three_are_answered(make_bench: MakeBench) -> None:
    bench = make_bench()
    enrollment = bench.expect()
    mails = [good_mail(token(number)).signed() for number in range(5)]
    decisions = at_once(*[lambda raw=raw: bench.decide(raw) for raw in mails])
    reasons = sorted(decision.reason for decision in decisions)
    assert reasons == [*[Reason.ACCEPTED] * 3, *[Reason.TOO_MANY_CHALLENGES] * 2]
    assert len(bench.outbox_of(enrollment)) == 3


def test_each_of_three_challenges_gets_its_own_answer(make_bench: MakeBench) -> None:
    """T02: which of them is of our order cannot be told; only the right one helps, and it helps only us."""
    bench = make_bench()
    enrollment = bench.expect()
    for number in range(3):
        assert bench.decide(good_mail(token(number)).signed()) == Decision("discard", Reason.ACCEPTED)
    entries = bench.outbox_of(enrollment)
    found = {digest_in(bench.vault.unseal_reply(entry.id, entry.sealed_reply)) for entry in entries}
    assert found == {expected_digest(token(number)) for number in range(3)}
    assert len({entry.message_id for entry in entries}) == 3


@pytest.mark.parametrize("state", [State.REPLIED, State.VALIDATING])
def test_a_second_challenge_does_not_hold_up_the_first_ones_validation(make_bench: MakeBench, state: State) -> None:
    bench = make_bench()
    enrollment = bench.expect()
    bench.decide()
    bench.set_state(enrollment, state)
    due = NOW + timedelta(seconds=3)
    with bench.raw_connection() as connection:
        connection.execute("UPDATE enrollment SET next_attempt_at = ?", (int(due.timestamp()) * 1_000_000,))
    assert bench.decide(good_mail(token(2)).signed()).reason == Reason.ACCEPTED
    moved = bench.enrollment(enrollment.id)
    assert (moved.state, moved.next_attempt_at) == (state, due)


@pytest.mark.parametrize("state", [State.FINALIZING, State.ISSUED, State.ACTIVE, State.FAILED, State.CANCELLED])
def test_after_the_order_ended_an_answered_mail_is_a_copy_and_another_is_unsolicited(
    make_bench: MakeBench, state: State
) -> None:
    bench = make_bench()
    enrollment = bench.expect()
    bench.decide()
    bench.set_state(enrollment, state)
    assert bench.decide() == Decision("discard", Reason.ANSWERED_ALREADY)
    assert bench.decide(good_mail(token(2)).signed()) == Decision("accept", Reason.UNSOLICITED)
    bench.clock.advance(hours=25)
    assert bench.decide() == Decision("accept", Reason.UNSOLICITED)
    assert len(bench.replies_due) == 1


def test_an_order_that_ends_between_the_verdict_and_the_commit_answers_nothing(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench()
    enrollment = bench.expect()
    examine = bench.intake.examine

    def examine_slowly(*arguments: object, **named: object) -> object:
        admission = examine(*arguments, **named)  # type: ignore[arg-type]  # passed on as they came
        bench.set_state(enrollment, State.CANCELLED)
        return admission

    monkeypatch.setattr(bench.intake, "examine", examine_slowly)
    assert bench.decide() == Decision("accept", Reason.UNSOLICITED)
    assert bench.outbox_of(enrollment) == []


def test_in_observe_mode_a_copy_of_an_answered_challenge_is_delivered_too(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.expect()
    assert bench.decide().disposition == "discard"
    bench.configure(defaults={"mode": "observe"})
    assert bench.decide() == Decision("accept", Reason.ANSWERED_ALREADY)
