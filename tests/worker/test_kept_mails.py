# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of a reply that is kept for its address's turn when that turn finds something else than expected."""

import dataclasses
from base64 import b64encode

import sqlalchemy as sa

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


def give_to_the_other_mailbox(bench: OrderBench) -> None:
    bench.addresses.reverse()
    bench.configure({}, {})
    alias = bench.config.alias(bench.aliases[0])
    assert alias is not None
    assert alias.alias_of == bench.addresses[0]


def test_an_alias_that_changes_hands_before_its_turn_is_not_proven_for_the_mailbox_that_it_has_left(
    make_orders: MakeOrderBench,
) -> None:
    bench = make_orders(mailboxes=2, aliases=1, policy=SAME)
    main = bench.addresses[0]
    following = kept_for_the_alias(bench)
    give_to_the_other_mailbox(bench)
    bench.start_scheduler()
    done = bench.await_state(following.id, State.FAILED, State.ACTIVE)
    assert (done.state, repliers(bench)) == (State.FAILED, [main])
    assert bench.aliases[0] in (done.last_error or "")
    assert done.successor_id is not None
    successor = bench.await_state(done.successor_id, State.PLANNED, State.ACTIVE)
    assert successor.state is State.PLANNED  # after a pause, and for the mailbox alone


def test_a_reply_that_is_due_is_not_sent_when_its_alias_has_changed_hands(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=2, aliases=1, policy=SAME)
    main = bench.addresses[0]
    replying = bench.step_until(kept_for_the_alias(bench), State.REPLYING)
    give_to_the_other_mailbox(bench)
    with bench.database.read() as connection:
        query = sa.text("SELECT id FROM outbox WHERE enrollment_id = :id AND next_attempt_at IS NOT NULL")
        (due,) = connection.execute(query, {"id": replying.id}).scalars()
    bench.responder.work_off(due)
    assert repliers(bench) == [main]


def test_no_certificate_names_an_alias_that_has_changed_hands_since_it_was_proven(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=2, aliases=1, policy=SAME)
    finalizing = bench.step_until(prove(bench, kept_for_the_alias(bench)), State.FINALIZING)
    assert finalizing.finalize_sent_at is None
    give_to_the_other_mailbox(bench)
    assert bench.step(finalizing).state is State.FAILED
    assert names_in(bench) == []


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


def test_one_token_for_two_addresses_is_nothing_that_we_answer_twice_nor_put_off(make_orders: MakeOrderBench) -> None:
    """S/MIME BR 3.2.2.4: each address has a random value of its own."""
    bench = make_orders(aliases=1, policy=SAME)
    (alias,) = bench.aliases
    bench.site.authority.set_knobs(MAIL_AT="neworder")
    waiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    wait_until(lambda: bench.outbox_count(waiting) == 2, "both mails")
    with bench.database.write() as connection:  # as if the mailbox's mail had brought the alias's token
        query = sa.text("UPDATE outbox SET envelope_sender = :main WHERE envelope_sender = :alias")
        connection.execute(query, {"main": bench.addresses[0], "alias": alias})
    bench.site.authority.send_mail(alias, "raw", raw=b64encode(bench.site.mx.raws[alias]).decode())
    wait_until(lambda: len(bench.site.mx.decisions[alias]) > 1, "the same token")
    told = bench.site.mx.decisions[alias][-1]
    assert (told.disposition, told.reason) == ("accept", "answered-already")
