# SPDX-License-Identifier: GPL-3.0-or-later
"""An order step by step, against the test CA and a real keyd, with the store between any two steps."""

import dataclasses
from datetime import timedelta

import pytest
import sqlalchemy as sa

from acme_milter.acme.authorization import Authorization, AuthorizationStatus, ChallengeStatus, EmailChallenge
from acme_milter.acme.order import Identifier
from acme_milter.acme.problem import RateLimited
from acme_milter.certificate.csr import csr_public_key_spki
from acme_milter.enrollment.model import Enrollment, State
from acme_milter.keys.client import KeydClient, KeydUnavailable
from acme_milter.lab.processes import wait_until
from acme_milter.store import enrollments, mailbox_keys
from acme_milter.worker.authorities import AuthorityUnusable
from acme_milter.worker.issuance import CLEANUP_ATTEMPTS
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import OrderBench
from tests.worker.site import DOMAIN


def successor_of(bench: OrderBench, failed: Enrollment) -> Enrollment:
    assert failed.successor_id is not None
    return bench.get(failed.successor_id)


def test_an_order_goes_its_way_one_step_at_a_time(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    address = bench.addresses[0]

    ordering = bench.step(bench.open())
    assert (ordering.state, ordering.order_url) == (State.ORDERING, None)
    assert ordering.key_id is not None
    with bench.database.read() as connection:
        key = mailbox_keys.get(connection, ordering.key_id)
    assert (key.principal, key.algorithm) == (address, "p256")
    assert csr_public_key_spki(key.csr) == key.spki
    assert bench.happened("order") == []  # the intent is committed before newOrder goes out

    placed = bench.step(ordering)
    assert placed.state is State.ORDERING
    assert placed.order_url is not None
    (order,) = bench.happened("order")
    assert placed.order_url.endswith(order["order"])

    awaiting = bench.step(placed)
    assert awaiting.state is State.AWAITING_MAIL
    assert awaiting.challenge_sender is not None
    assert awaiting.challenge_sender.endswith("@ca.example")
    assert awaiting.token_part2 is not None
    assert len(bench.vault.unseal_token(awaiting.id, awaiting.token_part2)) == 27

    replied = bench.answer_mail(awaiting)
    assert replied.state is State.REPLIED
    validating = bench.step(replied)
    if validating.state is not State.FINALIZING:  # the CA has decided before it was asked
        assert validating.state is State.VALIDATING
    finalizing = bench.step_until(validating, State.FINALIZING)
    ready = bench.step(finalizing)
    assert (ready.state, ready.certificate_url is None) == (State.FINALIZING, False)
    issued = bench.step(ready)
    assert issued.state is State.ISSUED
    (certificate,) = bench.certificates()
    assert (certificate.id, certificate.address, certificate.key_id) == (issued.certificate_id, address, key.id)
    active = bench.step(issued)
    assert (active.state, active.next_attempt_at) == (State.ACTIVE, None)
    assert len(bench.happened("reply-received")) == 1
    # T26: nothing is left at the CA that a thief of the account key could order with.
    (at_ca,) = [found for found in bench.site.authority.orders() if found["identifiers"] == [address]]
    assert [one["status"] for one in at_ca["authorizations"].values()] == ["deactivated"]


def test_an_authorization_that_is_valid_already_needs_no_mail(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    first = bench.step_until(bench.open(), State.AWAITING_MAIL)
    first = bench.step_until(bench.answer_mail(first), State.FINALIZING)
    with bench.database.write() as connection:  # an administrator ended it, so that its authorization stays valid
        connection.execute(sa.text("UPDATE enrollment SET state = 'cancelled'"))
    mails = len(bench.happened("mail-queued"))
    bench.site.authority.set_knobs(AUTHZREUSE=100)
    second = bench.step_until(bench.open(), State.FINALIZING, State.AWAITING_MAIL)
    assert second.state is State.FINALIZING
    assert bench.step_until(second, State.ACTIVE).token_part2 is None
    assert len(bench.happened("mail-queued")) == mails
    assert bench.outbox_count(second) == 0


def test_a_reply_seen_by_the_authority_at_once_needs_no_post(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    awaiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    replied = bench.answer_mail(awaiting)
    assert bench.step(replied).state is State.FINALIZING
    assert bench.happened("challenge-posted") == []


def test_where_the_authority_decides_at_the_post_it_is_posted_once(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    bench.site.authority.set_knobs(VALIDATE_AT="post")
    awaiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    validating = bench.step(bench.answer_mail(awaiting))
    assert validating.state is State.VALIDATING
    assert bench.step_until(validating, State.ACTIVE).state is State.ACTIVE
    assert len(bench.happened("challenge-posted")) == 1


@pytest.mark.parametrize(("trigger", "minutes"), [("post-first", 0), ("auto", 10)])
def test_an_authority_that_mails_only_after_the_post_gets_it(
    make_orders: MakeOrderBench, trigger: str, minutes: int
) -> None:
    bench = make_orders(authority={"challenge_trigger": trigger})
    bench.site.authority.set_knobs(MAIL_AT="post")
    awaiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    assert awaiting.next_attempt_at is not None
    wait = awaiting.next_attempt_at - awaiting.state_since
    assert abs(wait - timedelta(minutes=minutes)) < timedelta(seconds=1)
    with bench.moved_ahead(minutes=minutes):
        posted = bench.step(awaiting)
        assert posted.challenge_posted_at is not None
        assert posted.next_attempt_at == posted.challenge_posted_at + timedelta(minutes=30)
        # The mail may come at any moment now, and its answer is due by the clock of that moment.
        validating = bench.step(bench.answer_mail(posted))
    assert bench.step_until(validating, State.ACTIVE).state is State.ACTIVE
    # The reply's arrival decides; a challenge that was posted to get the mail is not posted again.
    assert len(bench.happened("challenge-posted")) == 1


def test_a_challenge_that_never_arrives_ends_the_order_and_opens_another_half_an_hour_later(
    make_orders: MakeOrderBench,
) -> None:
    bench = make_orders()
    bench.site.authority.set_knobs(MAIL_LOSS=100)
    awaiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    bench.clock.advance(minutes=29)
    patient = bench.step(awaiting)
    assert patient.state is State.AWAITING_MAIL
    assert patient.next_attempt_at == awaiting.state_since + timedelta(minutes=30)
    assert (patient.last_error, patient.attempts) == (None, 0)
    bench.clock.advance(minutes=2)
    failed = bench.step(patient)
    assert failed.state is State.FAILED
    assert failed.last_error == f"no challenge mail from {awaiting.challenge_sender} arrived in time"
    successor = successor_of(bench, failed)
    assert (successor.state, successor.generation, successor.address) == (State.PLANNED, 2, failed.address)
    assert successor.next_attempt_at == successor.opened_at + timedelta(minutes=30)
    assert successor.last_error == failed.last_error
    (at_ca,) = [found for found in bench.site.authority.orders() if found["identifiers"] == [failed.address]]
    assert [one["status"] for one in at_ca["authorizations"].values()] == ["deactivated"]
    # Its next order gets new tokens, and its mail comes.
    bench.site.authority.set_knobs(MAIL_LOSS=0)
    again = bench.step_until(successor, State.AWAITING_MAIL)
    assert again.challenge_sender != awaiting.challenge_sender


def test_a_refused_address_fails_for_good_with_the_authoritys_words(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    bench.site.authority.set_knobs(REFUSE_ADDRESS=bench.addresses[0])
    failed = bench.step_until(bench.open(), State.FAILED)
    assert failed.successor_id is None
    assert failed.last_error is not None
    assert "rejectedIdentifier" in failed.last_error
    assert "this CA does not issue for this address" in failed.last_error


def test_a_reply_that_the_authority_does_not_accept_leads_to_another_order(make_orders: MakeOrderBench) -> None:
    bench = make_orders(authority={"token_join": "bytes"})
    bench.site.authority.set_knobs(TOKEN_JOIN="string")
    awaiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    failed = bench.step_until(bench.answer_mail(awaiting), State.FAILED)
    assert failed.last_error is not None
    assert "the authorization is invalid: incorrectResponse" in failed.last_error
    assert "digest" in failed.last_error
    assert successor_of(bench, failed).generation == 2


def test_a_post_that_came_too_early_burns_the_order_and_another_is_opened(make_orders: MakeOrderBench) -> None:
    bench = make_orders(authority={"challenge_trigger": "post-first"})
    bench.site.authority.set_knobs(EARLY_POST_INVALID="on", MAIL_LOSS=100)
    posted = bench.step(bench.step_until(bench.open(), State.AWAITING_MAIL))
    assert posted.challenge_posted_at is not None
    failed = bench.step(posted)
    assert failed.state is State.FAILED
    assert "posted-before-reply" in (failed.last_error or "")
    assert failed.successor_id is not None


def test_a_rate_limit_is_told_to_the_caller_with_its_pause(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    ordering = bench.step(bench.open())
    bench.site.authority.set_knobs(RATELIMIT=100, RETRY_AFTER_SECONDS=90)
    with pytest.raises(RateLimited) as caught:
        bench.step(ordering)
    assert caught.value.retry_after == timedelta(seconds=90)


def test_without_keyd_nothing_is_ordered(make_orders: MakeOrderBench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make_orders()
    bench.step(bench.open(bench.addresses[0]))  # so that the account is there
    with bench.database.write() as connection:
        connection.execute(sa.text("UPDATE enrollment SET state = 'cancelled'"))
    absent = KeydClient(bench.site.directory / "no.sock", timeout=1)
    object.__setattr__(bench.desk, "keyd", absent)
    planned = bench.open()
    with pytest.raises(KeydUnavailable):
        bench.step(planned)
    assert bench.happened("order") == []


@pytest.mark.parametrize("state", [State.ORDERING, State.AWAITING_MAIL, State.REPLIED])
def test_an_order_that_ran_out_of_time_is_replaced(make_orders: MakeOrderBench, state: State) -> None:
    bench = make_orders(authority={"order_lifetime": "2h"})
    bench.site.authority.set_knobs(VALIDATE_AT="post")
    found = bench.step_until(bench.open(), State.AWAITING_MAIL if state is State.REPLIED else state)
    if state is State.REPLIED:
        found = bench.answer_mail(found)
    bench.clock.advance(hours=2, seconds=1)
    failed = bench.step(found)
    assert (failed.state, failed.last_error) == (State.FAILED, f"the order ran out of time while {state}")
    assert failed.successor_id is not None


class OddAuthority:
    """An authority that names `sender` as the origin of its challenge mails."""

    def __init__(self, sender: str) -> None:
        self._sender = sender

    def client_of(self, _enrollment: Enrollment) -> "OddAuthority":
        return self

    def fetch_authorization(self, url: str) -> Authorization:
        challenge = EmailChallenge(f"{url}/c", ChallengeStatus.PENDING, "part2", self._sender)
        return Authorization(url, AuthorizationStatus.PENDING, None, Identifier("email", "x@y"), challenge)

    def deactivate_authorization(self, url: str) -> Authorization:
        return self.fetch_authorization(url)


@pytest.mark.parametrize("sender", ["<acme@ca.example>", "acme@", "a@b@ca.example", "CA<acme@ca.example>"])
def test_a_sender_that_no_mail_can_have_ends_the_order_at_once(make_orders: MakeOrderBench, sender: str) -> None:
    bench = make_orders()
    placed = bench.step(bench.step(bench.open()))
    object.__setattr__(bench.desk, "authorities", OddAuthority(sender))
    failed = bench.step(placed)
    assert (failed.state, failed.successor_id) == (State.FAILED, None)
    assert "the challenge's from is no mail address" in (failed.last_error or "")


def test_the_senders_domain_is_kept_in_its_canonical_form(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    placed = bench.step(bench.step(bench.open()))
    object.__setattr__(bench.desk, "authorities", OddAuthority("Acme@CA.Example"))
    assert bench.step(placed).challenge_sender == "Acme@ca.example"


def test_a_mailbox_that_is_not_managed_any_more_is_not_ordered_for(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    failed = bench.step(bench.open(f"gone@{DOMAIN}"))
    assert (failed.state, failed.last_error) == (State.FAILED, "the mailbox is not managed any more")
    assert failed.successor_id is None


def test_an_order_that_waits_for_its_certificate_ends_with_its_authority_too(make_orders: MakeOrderBench) -> None:
    bench = make_orders(others={"second": {}})
    awaiting = bench.step_until(bench.open(authority="second"), State.AWAITING_MAIL)
    finalizing = bench.step_until(bench.answer_mail(awaiting), State.FINALIZING)
    bench.configure({}, {})
    bench.restart()
    failed = bench.step(finalizing)
    assert (failed.state, failed.last_error) == (State.FAILED, "authority second is not configured any more")


def test_a_certificate_that_has_come_is_used_although_its_authority_is_gone(make_orders: MakeOrderBench) -> None:
    bench = make_orders(others={"second": {}})
    awaiting = bench.step_until(bench.open(authority="second"), State.AWAITING_MAIL)
    issued = bench.step_until(bench.answer_mail(awaiting), State.ISSUED)
    bench.configure({}, {})
    bench.restart()
    with pytest.raises(AuthorityUnusable):
        bench.step(issued)
    assert bench.step(dataclasses.replace(issued, attempts=CLEANUP_ATTEMPTS)).state is State.ACTIVE


def test_an_authority_that_left_the_configuration_ends_its_orders(make_orders: MakeOrderBench) -> None:
    bench = make_orders(others={"second": {}})
    bench.site.authority.set_knobs(MAIL_LOSS=100)
    placed = bench.step_until(bench.open(authority="second"), State.AWAITING_MAIL)
    bench.configure({}, {})
    bench.restart()
    failed = bench.step(placed)
    assert (failed.state, failed.last_error) == (State.FAILED, "authority second is not configured any more")
    assert failed.successor_id is None


def test_a_renewed_certificate_takes_the_place_of_the_old_one(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    first = bench.step_until(bench.open(), State.AWAITING_MAIL)
    first = bench.step_until(bench.answer_mail(first), State.ACTIVE)
    second = bench.step_until(bench.open(), State.AWAITING_MAIL)
    second = bench.step_until(bench.answer_mail(second), State.ISSUED)
    assert bench.get(first.id).state is State.ACTIVE
    second = bench.step(second)
    assert (second.state, bench.get(first.id).state) == (State.ACTIVE, State.SUPERSEDED)
    assert second.key_id != first.key_id
    with bench.database.read() as connection:  # L1: the old key opens old mail
        assert mailbox_keys.get(connection, first.key_id or "").id == first.key_id
        assert enrollments.find_open(connection, first.address, "ca") is None
    wait_until(lambda: len(bench.certificates()) == 2, "both certificates")
