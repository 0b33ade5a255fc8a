# SPDX-License-Identifier: GPL-3.0-or-later
"""Orders for a mailbox and its aliases, against the test CA and a real keyd."""

from base64 import b64encode

import pytest
import sqlalchemy as sa
from cryptography import x509

from acme_milter.certificate.csr import csr_is_for
from acme_milter.enrollment.model import Enrollment, State
from acme_milter.lab.processes import wait_until
from acme_milter.store import enrollments, mailbox_keys, outbox
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import OrderBench

SAME = {"certificate": {"key": "p256", "aliases": "same_certificate"}}
OWN = {"certificate": {"key": "p256", "aliases": "own_certificate"}}


def names_in(bench: OrderBench) -> list[set[str]]:
    """What each stored certificate is for."""
    found = []
    for stored in bench.certificates():
        leaf = x509.load_pem_x509_certificates(stored.chain_pem)[0]
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found.append(set(names.get_values_for_type(x509.RFC822Name)))
    return found


def statuses(bench: OrderBench) -> dict[str, set[str]]:
    """Of the authorizations at the CA, by order."""
    orders = [one for one in bench.site.authority.orders() if bench.addresses[0] in one["identifiers"]]
    return {one["order"]: {each["status"] for each in one["authorizations"].values()} for one in orders}


def repliers(bench: OrderBench) -> list[str]:
    with bench.database.read() as connection:
        query = sa.text("SELECT envelope_sender FROM outbox WHERE sent_at IS NOT NULL ORDER BY created_at")
        return list(connection.execute(query).scalars())


def prove(bench: OrderBench, enrollment: Enrollment) -> Enrollment:
    """The address at hand, from its challenge mail, which may have come before its turn, until the authority is
    convinced.
    """
    awaiting = bench.step_until(enrollment, State.AWAITING_MAIL, State.REPLYING)
    wait_until(lambda: "discard" in decided(bench, awaiting.at_hand), f"the mail to {awaiting.at_hand}")
    known = bench.get(awaiting.id)
    assert bench.step_until(known, State.REPLYING).at_hand == awaiting.at_hand
    with bench.database.read() as connection:
        replies = outbox.due(connection, now=bench.clock(), limit=9)
    for reply in replies:
        bench.responder.work_off(reply)
    return bench.step_until(bench.get(awaiting.id), State.FINALIZING, State.ORDERING)


def decided(bench: OrderBench, address: str) -> list[str]:
    """What was done with the mails to it."""
    return [one.disposition for one in bench.site.mx.decisions.get(address, [])]


@pytest.mark.parametrize(
    ("knobs", "trigger"),
    [
        ({}, "reply-first"),
        ({"VALIDATE_AT": "post", "MAIL_FROM": "fixed"}, "reply-first"),
        ({"MAIL_AT": "post"}, "post-first"),
    ],
)
def test_one_certificate_names_a_mailbox_and_its_aliases_and_each_of_them_answers(
    make_orders: MakeOrderBench, knobs: dict[str, object], trigger: str
) -> None:
    bench = make_orders(aliases=2, policy=SAME, authority={"challenge_trigger": trigger})
    bench.site.authority.set_knobs(**knobs)
    everybody = [bench.addresses[0], *bench.aliases]
    bench.start_scheduler()
    done = bench.await_state(bench.open().id, State.ACTIVE, State.FAILED, timeout=30)
    assert (done.state, done.last_error, done.aliases) == (State.ACTIVE, None, tuple(bench.aliases))
    assert names_in(bench) == [set(everybody)]
    assert repliers(bench) == everybody
    assert [len(bench.happened("reply-received", address=one)) for one in everybody] == [1, 1, 1]
    assert len(bench.happened("order")) == 1
    assert statuses(bench) == {bench.happened("order")[0]["order"]: {"deactivated"}}
    assert {one.reason for name in everybody for one in bench.site.mx.decisions[name]} == {"accepted"}


@pytest.mark.parametrize("sender", ["unique", "fixed"])
def test_an_authority_that_mails_all_challenges_at_once_has_none_put_off_nor_answered_twice(
    make_orders: MakeOrderBench, sender: str
) -> None:
    """The mails of those whose turn is to come are kept, however long the first one takes."""
    bench = make_orders(aliases=2, policy=SAME, milter={"deadline": "1s"})
    bench.site.authority.set_knobs(MAIL_AT="neworder", MAIL_FROM=sender)
    everybody = [bench.addresses[0], *bench.aliases]
    waiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    wait_until(lambda: all("discard" in decided(bench, one) for one in bench.aliases), "every alias's mail")
    assert {what for one in bench.aliases for what in decided(bench, one)} <= {"discard", "tempfail"}
    wait_until(lambda: decided(bench, bench.addresses[0]) == ["discard"], "the mailbox's own mail")
    assert bench.outbox_count(waiting) == 3
    assert repliers(bench) == []  # in their turn, and not before
    with bench.moved_ahead(minutes=40):
        known = waiting
        for address in everybody:
            assert known.at_hand == address
            known = prove(bench, known)
        assert repliers(bench) == everybody
        assert bench.step_until(known, State.ACTIVE).state is State.ACTIVE
    assert names_in(bench) == [set(everybody)]
    assert [len(bench.happened("reply-received", address=one)) for one in everybody] == [1, 1, 1]


def test_what_comes_before_its_address_s_turn_is_checked_as_strictly_as_what_comes_in_it(
    make_orders: MakeOrderBench,
) -> None:
    bench = make_orders(aliases=1, policy=SAME)
    (alias,) = bench.aliases
    bench.site.authority.set_knobs(MAIL_AT="neworder", MAIL_LOSS=100)
    waiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    (lost,) = bench.site.authority.history("mail-lost")[-1:]
    assert lost["recipient"] == alias
    bench.site.authority.send_mail(alias, "foreign")
    bench.site.authority.send_mail(alias, "forged-unsigned", **{"from": waiting.proofs[1].sender})
    wait_until(lambda: len(decided(bench, alias)) == 2, "a stranger's order and a forgery")
    assert sorted(one.reason for one in bench.site.mx.decisions[alias]) == ["dkim-none", "unsolicited"]
    assert decided(bench, alias) == ["accept", "accept"]
    assert bench.outbox_count(waiting) == 0


def test_a_kept_mail_survives_a_restart_and_its_copy_is_swallowed(make_orders: MakeOrderBench) -> None:
    bench = make_orders(aliases=1, policy=SAME)
    (alias,) = bench.aliases
    bench.site.authority.set_knobs(MAIL_AT="neworder")
    waiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    wait_until(lambda: "discard" in decided(bench, alias), "the alias's mail")
    bench.restart()
    raw = b64encode(bench.site.mx.raws[alias]).decode()
    bench.site.authority.send_mail(alias, "raw", raw=raw)
    wait_until(lambda: decided(bench, alias).count("discard") == 2, "the copy")
    assert bench.site.mx.decisions[alias][-1].reason == "answered-already"
    following = prove(bench, bench.get(waiting.id))
    done = bench.step_until(prove(bench, following), State.ACTIVE)
    bench.site.authority.send_mail(alias, "raw", raw=raw)
    bench.site.authority.send_mail(bench.addresses[0], "raw", raw=b64encode(bench.site.mx.raws[done.address]).decode())
    wait_until(lambda: len(decided(bench, done.address)) == 2 and decided(bench, alias).count("discard") == 3, "more")
    assert decided(bench, done.address) == ["discard", "discard"]
    assert bench.outbox_count(done) == 2


def test_what_was_answered_already_is_swallowed_when_another_address_is_proven(make_orders: MakeOrderBench) -> None:
    bench = make_orders(aliases=1, policy=SAME)
    main = bench.addresses[0]
    following = prove(bench, bench.open())
    assert following.state is State.ORDERING
    bench.site.authority.send_mail(main, "raw", raw=b64encode(bench.site.mx.raws[main]).decode())
    wait_until(lambda: len(bench.site.mx.decisions[main]) == 2, "the copy")
    assert [one.disposition for one in bench.site.mx.decisions[main]] == ["discard", "discard"]
    assert repliers(bench) == [main]


def test_a_failure_at_the_second_address_gives_everything_back(make_orders: MakeOrderBench) -> None:
    bench = make_orders(aliases=2, policy=SAME)
    ordering = bench.step_until(bench.open(), State.ORDERING)
    ordering = bench.step(bench.step(ordering))  # the order is placed, and the mailbox's own authorization read
    bench.site.authority.set_knobs(MAIL_LOSS=100)
    following = prove(bench, ordering)
    assert following.at_hand == bench.aliases[0]
    awaiting = bench.step_until(following, State.AWAITING_MAIL)
    with bench.moved_ahead(minutes=31):
        failed = bench.step(awaiting)
    assert failed.state is State.FAILED
    assert failed.successor_id is not None
    assert bench.get(failed.successor_id).state is State.PLANNED
    assert statuses(bench) == {bench.happened("order")[0]["order"]: {"deactivated"}}


def test_a_worker_that_is_killed_between_two_addresses_goes_on_where_it_was(make_orders: MakeOrderBench) -> None:
    bench = make_orders(aliases=2, policy=SAME)
    following = prove(bench, bench.open())
    bench.restart()
    known = bench.get(following.id)
    assert known == following
    assert (known.at_hand, len(known.proofs)) == (bench.aliases[0], 3)
    last = prove(bench, known)
    bench.restart()
    done = bench.step_until(prove(bench, bench.get(last.id)), State.ACTIVE)
    assert done.aliases == tuple(bench.aliases)
    assert names_in(bench) == [{bench.addresses[0], *bench.aliases}]
    assert len(bench.happened("order")) == 1


def test_authorizations_that_are_valid_already_are_passed_over(make_orders: MakeOrderBench) -> None:
    bench = make_orders(aliases=2, policy=SAME)
    bench.site.authority.set_knobs(AUTHZ_PREVALIDATED=100)
    assert bench.step_until(bench.open(), State.ACTIVE).state is State.ACTIVE
    assert names_in(bench) == [{bench.addresses[0], *bench.aliases}]
    assert repliers(bench) == []


def test_more_aliases_than_an_authority_takes_are_left_out_the_last_first(
    make_orders: MakeOrderBench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    bench = make_orders(aliases=2, policy=SAME, authority={"limits": {"identifiers": 2}})
    ordering = bench.step(bench.open())
    assert ordering.aliases == (bench.aliases[0],)
    assert f"alias={bench.aliases[1]}" in caplog.text.replace("<", "").replace(">", "")
    alone = make_orders(aliases=2, policy=SAME, authority={"preset": "rapidmx"})
    assert alone.step(alone.open()).aliases == ()


def test_with_none_an_order_is_for_the_mailbox_alone(make_orders: MakeOrderBench) -> None:
    bench = make_orders(aliases=2)
    assert bench.config.managed() == set(bench.addresses)
    done = bench.step_until(prove(bench, bench.open()), State.ACTIVE)
    assert (done.aliases, done.proving, done.proofs) == ((), None, ())
    assert names_in(bench) == [set(bench.addresses)]
    (order,) = bench.happened("order")
    assert order["identifiers"] == bench.addresses


def test_an_alias_with_a_certificate_of_its_own_is_a_mailbox_and_replies_as_itself(make_orders: MakeOrderBench) -> None:
    bench = make_orders(aliases=1, policy=OWN)
    main, (alias,) = bench.addresses[0], bench.aliases
    member = bench.config.member(alias)
    assert member is not None
    assert (member.alias_of, member.principal) == (main, main)
    bench.start_scheduler()
    ids = [bench.open(address).id for address in (main, alias)]
    assert {one.state for one in bench.await_end(ids).values()} == {State.ACTIVE}
    assert sorted(map(sorted, names_in(bench))) == sorted([[main], [alias]])
    assert sorted(repliers(bench)) == sorted([main, alias])


def test_an_address_is_in_one_open_order_at_a_time(make_orders: MakeOrderBench) -> None:
    bench = make_orders(mailboxes=2, aliases=1, policy=SAME)
    (alias,) = bench.aliases
    ordering = bench.step(bench.open())
    assert ordering.aliases == (alias,)
    other = bench.open(bench.addresses[1])
    with bench.database.write() as connection:  # as when the alias has become a mailbox meanwhile
        connection.execute(
            sa.text("UPDATE enrollment SET address = :alias WHERE id = :id"), {"alias": alias, "id": other.id}
        )
        assert enrollments.address_in_another_order(connection, bench_get(connection, other.id), ()) == alias
        assert enrollments.address_in_another_order(connection, ordering, (alias,)) is None


def bench_get(connection: sa.Connection, enrollment_id: str) -> Enrollment:
    found = enrollments.get(connection, enrollment_id)
    assert found is not None
    return found


def test_a_kept_key_s_request_must_name_the_same_addresses(make_orders: MakeOrderBench) -> None:
    bench = make_orders(aliases=2, policy=SAME)
    ordering = bench.step(bench.open())
    assert ordering.key_id is not None
    with bench.database.read() as connection:
        csr = mailbox_keys.get(connection, ordering.key_id).csr
    main, one, two = bench.addresses[0], *bench.aliases
    assert csr_is_for(csr, main, one, two)
    assert csr_is_for(csr, main, two, one)
    assert not csr_is_for(csr, main, one)
    assert not csr_is_for(csr, main, one, two, "other@org.example")
