# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of a reply that is kept for its address's turn when that turn finds something else than expected."""

import dataclasses
from base64 import b64encode

from acme_milter.enrollment.model import Enrollment, State
from acme_milter.lab.processes import wait_until
from acme_milter.store import enrollments
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import OrderBench
from tests.worker.test_aliases import SAME, decided, names_in, prove, repliers, statuses


def kept_for_the_alias(bench: OrderBench) -> Enrollment:
    """The order when its mailbox is proven, and its alias's mail lies there since before."""
    bench.site.authority.set_knobs(MAIL_AT="neworder")
    waiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    wait_until(lambda: "discard" in decided(bench, bench.aliases[0]), "the alias's mail")
    following = prove(bench, bench.get(waiting.id))
    assert (following.state, following.at_hand) == (State.ORDERING, bench.aliases[0])
    return following


def test_nothing_is_sent_to_an_authorization_that_has_ended_before_its_turn(make_orders: MakeOrderBench) -> None:
    bench = make_orders(aliases=1, policy=SAME)
    following = kept_for_the_alias(bench)
    assert following.authorization_url is not None
    bench.desk.client(following).deactivate_authorization(following.authorization_url)
    bench.start_scheduler()
    done = bench.await_state(following.id, State.FAILED, State.ACTIVE)
    assert (done.state, done.last_error) == (State.FAILED, "the authorization is deactivated")
    assert repliers(bench) == bench.addresses


def test_a_kept_reply_to_a_challenge_that_the_authority_has_replaced_is_not_sent(make_orders: MakeOrderBench) -> None:
    bench = make_orders(aliases=1, policy=SAME)
    following = kept_for_the_alias(bench)
    _forget_token(bench, following)
    bench.start_scheduler()
    done = bench.await_state(following.id, State.FAILED, State.ACTIVE)
    assert done.state is State.FAILED
    assert "another challenge" in (done.last_error or "")
    assert done.successor_id is not None
    assert repliers(bench) == bench.addresses
    wait_until(lambda: list(statuses(bench).values()) == [{"deactivated"}], "all to be given back")


def test_a_challenge_that_was_replaced_before_its_mail_came_is_answered_as_it_is_now(
    make_orders: MakeOrderBench,
) -> None:
    bench = make_orders(aliases=1, policy=SAME, authority={"challenge_trigger": "post-first"})
    bench.site.authority.set_knobs(MAIL_AT="post")

    def asked_for(enrollment: Enrollment) -> Enrollment:
        return bench.step(bench.step_until(enrollment, State.AWAITING_MAIL))

    following = prove(bench, asked_for(bench.open()))
    _forget_token(bench, following)
    finalizing = prove(bench, asked_for(bench.get(following.id)))
    assert bench.step_until(finalizing, State.ACTIVE).state is State.ACTIVE
    assert names_in(bench) == [{*bench.addresses, *bench.aliases}]


def _forget_token(bench: OrderBench, enrollment: Enrollment) -> None:
    """As if the authority had had another token-part2 for the address at hand when that was read."""
    sealed = b64encode(bench.vault.seal_token(enrollment.id, "DGyRejmCefe7v4NfDGDKfA")).decode("ascii")
    proofs = list(enrollment.proofs)
    proofs[enrollment.place_at_hand] = dataclasses.replace(proofs[enrollment.place_at_hand], sealed_token=sealed)
    known = dataclasses.replace(bench.get(enrollment.id), proofs=tuple(proofs), version=enrollment.version + 1)
    with bench.database.write() as connection:
        enrollments.save(connection, known)
