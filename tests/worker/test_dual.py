# SPDX-License-Identifier: GPL-3.0-or-later
"""A certificate to sign and one to encrypt (RFC 8823 §3.3): ordered one after the other, renewed each by itself."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.enrollment.model import Cause, State
from acme_milter.report.coverage import coverage
from acme_milter.report.plan import Selection, make_plan
from acme_milter.report.why import why
from acme_milter.store import holders, plan_facts, renewals, revocations, tallies
from acme_milter.store.bulk_runs import Kind
from acme_milter.store.schema import enrollment as table
from acme_milter.worker.renewer import Renewer
from acme_milter.worker.revocation_call import RevocationCall
from tests.worker.conftest import MakeOrderBench
from tests.worker.dual_orders import (
    ask,
    finish,
    finish_all,
    make_pair,
    renew_one,
    run_of,
    states,
    the_open_one,
)

DUAL, SIGN, ENCRYPT = KeyUsageKind.DUAL, KeyUsageKind.SIGN, KeyUsageKind.ENCRYPT
PAIR = {"certificate": {"layout": "dual"}}


def test_the_second_is_opened_in_the_moment_in_which_the_first_is_in_use(make_orders: MakeOrderBench) -> None:
    bench = make_pair(make_orders)
    assert ask(bench)["outcome"] == "opened"
    first = the_open_one(bench)
    assert first is not None
    assert first.usage is SIGN
    assert ask(bench) == {"address": bench.addresses[0], "outcome": "already-open", "id": first.id}
    finish(bench, first)
    second = the_open_one(bench)
    assert second is not None
    assert (second.usage, second.cause, second.replaces_id) == (ENCRYPT, Cause.ASKED, None)
    finish(bench, second)
    assert the_open_one(bench) is None
    assert states(bench) == {SIGN: [State.ACTIVE], ENCRYPT: [State.ACTIVE]}
    assert ask(bench)["outcome"] == "already-active"


def test_each_certificate_is_for_its_own_use_and_has_a_key_of_its_own(make_orders: MakeOrderBench) -> None:
    bench = make_pair(make_orders)
    ask(bench)
    finish_all(bench)
    by_usage = {stored.usage: stored for stored in bench.certificates()}
    assert by_usage[SIGN].key_id != by_usage[ENCRYPT].key_id
    for usage, stored in by_usage.items():
        leaf = x509.load_pem_x509_certificates(stored.chain_pem)[0]
        bits = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
        assert (bits.digital_signature, bits.key_agreement) == (usage is SIGN, usage is ENCRYPT)


def test_a_first_order_that_failed_for_good_keeps_the_second_from_nothing(make_orders: MakeOrderBench) -> None:
    bench = make_pair(make_orders)
    bench.site.authority.set_knobs(CERT="bothuses")  # for one who wanted to sign only: RFC 8823 §3.3
    ask(bench)
    first = the_open_one(bench)
    assert first is not None
    failed = finish(bench, first)
    assert failed.state is State.FAILED
    assert "layout: single" in (failed.last_error or "")
    bench.site.authority.reset_knobs()
    second = the_open_one(bench)
    assert second is not None
    assert second.usage is ENCRYPT
    assert finish(bench, second).state is State.ACTIVE
    assert the_open_one(bench) is None  # what has just failed for good would fail again
    renew_one(bench, ENCRYPT)
    assert [one.usage for one in finish_all(bench)] == [ENCRYPT, SIGN]  # what failed long ago is tried with a renewal


@pytest.mark.parametrize("by", ["person", "run"])
def test_orders_come_to_an_end_where_only_the_second_succeeds(make_orders: MakeOrderBench, by: str) -> None:
    bench = make_orders()
    ask(bench)
    finish_all(bench)
    (old,) = bench.certificates()
    bench.change_policy(**PAIR)
    if by == "person":
        ask(bench, again=True)
    else:
        run_of(bench, Kind.REPLACE, replaces_id=old.id, also_replaces_id=old.id).feed()
    bench.site.authority.set_knobs(CERT="bothuses")
    first = the_open_one(bench)
    assert first is not None
    assert (finish(bench, first).state, first.replaces_id) == (State.FAILED, old.id)
    bench.site.authority.reset_knobs()
    second = the_open_one(bench)
    assert second is not None
    assert (finish(bench, second).state, second.usage) == (State.ACTIVE, ENCRYPT)
    assert the_open_one(bench) is None
    assert states(bench) == {DUAL: [State.ACTIVE], SIGN: [State.FAILED], ENCRYPT: [State.ACTIVE]}


def test_a_failure_that_is_tried_again_is_tried_for_the_same_use(make_orders: MakeOrderBench) -> None:
    bench = make_pair(make_orders)
    bench.site.authority.set_knobs(MAIL_LOSS="on")
    ask(bench)
    first = the_open_one(bench)
    assert first is not None
    awaiting = bench.step_until(first, State.AWAITING_MAIL)
    with bench.moved_ahead(minutes=31):
        assert bench.step_until(awaiting, State.FAILED).successor_id is not None
    again = the_open_one(bench)
    assert again is not None
    assert (again.usage, again.generation) == (SIGN, 2)


def test_a_renewal_carries_its_use_and_takes_the_place_of_its_own_kind_only(make_orders: MakeOrderBench) -> None:
    bench = make_pair(make_orders)
    ask(bench)
    finish_all(bench)
    renew_one(bench, ENCRYPT)
    assert [one.usage for one in finish_all(bench)] == [ENCRYPT]
    assert states(bench) == {SIGN: [State.ACTIVE], ENCRYPT: [State.SUPERSEDED, State.ACTIVE]}


@pytest.mark.parametrize("by", ["again", "renew"])
def test_whoever_wants_a_mailboxs_certificates_anew_gets_both(make_orders: MakeOrderBench, by: str) -> None:
    bench = make_pair(make_orders)
    ask(bench)
    finish_all(bench)
    if by == "again":
        assert ask(bench, again=True)["outcome"] == "opened"
    else:
        renew = Renewer(
            config=lambda: bench.config, database=bench.database, clock=bench.clock, work_is_due=lambda: None
        )
        renew.answer({"addresses": bench.addresses[:1]})
    assert [one.usage for one in finish_all(bench)] == [SIGN, ENCRYPT]
    assert states(bench) == {SIGN: [State.SUPERSEDED, State.ACTIVE], ENCRYPT: [State.SUPERSEDED, State.ACTIVE]}


def test_a_certificate_for_both_uses_is_over_only_when_both_new_ones_are_there(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    ask(bench)
    finish_all(bench)
    bench.change_policy(**PAIR)
    assert ask(bench)["outcome"] == "opened"
    first = the_open_one(bench)
    assert first is not None
    finish(bench, first)
    assert states(bench)[DUAL] == [State.ACTIVE]
    finish_all(bench)
    assert states(bench) == {DUAL: [State.SUPERSEDED], SIGN: [State.ACTIVE], ENCRYPT: [State.ACTIVE]}
    with bench.database.read() as connection:
        assert renewals.number_active(connection, "ca") == 2


def test_two_certificates_are_over_when_one_for_both_uses_is_there(make_orders: MakeOrderBench) -> None:
    bench = make_pair(make_orders)
    ask(bench)
    finish_all(bench)
    bench.change_policy()
    assert ask(bench)["outcome"] == "opened"
    assert [one.usage for one in finish_all(bench)] == [DUAL]
    assert states(bench) == {SIGN: [State.SUPERSEDED], ENCRYPT: [State.SUPERSEDED], DUAL: [State.ACTIVE]}


def test_a_mailbox_counts_as_covered_when_both_are_valid(make_orders: MakeOrderBench) -> None:
    bench = make_pair(make_orders)
    ask(bench)
    first = the_open_one(bench)
    assert first is not None
    finish(bench, first)

    def now_covered() -> tuple[object, bool]:
        with bench.database.read() as connection:
            total = coverage(connection, bench.config, bench.clock())["total"]
            told = why(connection, bench.config, bench.clock(), address=bench.addresses[0])
            return total["with_certificate"], bool(told["has_certificate"])  # type: ignore[index]  # a document

    assert now_covered() == (0, False)
    finish_all(bench)
    assert now_covered() == (1, True)
    with bench.database.write() as connection:  # the one to encrypt ends first, and has ended
        ended = table.update().where(table.c.usage == "encrypt").values(not_after=bench.clock() - timedelta(days=1))
        connection.execute(ended)
        assert tallies.with_certificate(connection, bench.clock()) == set()
        assert list(plan_facts.certified(connection, bench.clock()).partly.values()) == [{SIGN}]


def test_a_mailbox_lasts_as_long_as_the_certificate_that_ends_first(make_orders: MakeOrderBench) -> None:
    bench = make_pair(make_orders)
    ask(bench)
    finish_all(bench)
    soon = datetime.now(UTC) + timedelta(days=7)
    with bench.database.write() as connection:
        connection.execute(table.update().where(table.c.usage == "sign").values(not_after=soon))
        end = holders.ends(connection, bench.clock())[bench.addresses[0]]
    assert abs(end.not_after - soon) < timedelta(seconds=1)


def test_a_mailbox_without_a_certificate_takes_two_orders_and_one_with_half_of_them_one(
    make_orders: MakeOrderBench,
) -> None:
    bench = make_pair(make_orders, mailboxes=2)

    def orders() -> list[tuple[int, int]]:
        with bench.database.read() as connection:
            plan = make_plan(connection, bench.config, bench.clock(), Selection())
        return [(share.number, share.orders) for share in plan.authorities]

    assert orders() == [(2, 4)]
    ask(bench)
    first = the_open_one(bench)
    assert first is not None
    finish(bench, first)
    second = the_open_one(bench)
    assert second is not None
    with bench.database.write() as connection:
        connection.execute(table.update().where(table.c.id == second.id).values(state="cancelled"))
    assert orders() == [(2, 3)]


def test_revoking_by_mailbox_revokes_both(make_orders: MakeOrderBench) -> None:
    bench = make_pair(make_orders)
    ask(bench)
    finish_all(bench)
    call = RevocationCall(
        config=lambda: bench.config, database=bench.database, clock=bench.clock, work_is_due=lambda: None
    )
    call.answer({"addresses": bench.addresses[:1], "reason": "superseded"})
    with bench.database.read() as connection:
        asked = {one.certificate_id for one in revocations.undone(connection)}
    assert asked == {stored.id for stored in bench.certificates()}


@pytest.mark.parametrize(("own", "wanted"), [(None, "strict"), ("short", "short")])
def test_a_policys_profile_wins_over_the_authoritys(make_orders: MakeOrderBench, own: str | None, wanted: str) -> None:
    bench = make_orders(authority={"profile": "strict"}, policy={"certificate": {"profile": own}})
    finish(bench, bench.open())
    (ordered,) = bench.happened("order")
    assert ordered["profile"] == wanted
