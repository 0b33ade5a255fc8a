# SPDX-License-Identifier: GPL-3.0-or-later
"""An account's next key: stored before it is offered, waits for open challenges, and survives a kill at each point."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from acme_milter.acme import key_change
from acme_milter.acme.problem import ErrorType, Problem, ServerBusy, ServerRefused
from acme_milter.enrollment.model import State
from acme_milter.enrollment.state_machine import Deferred
from acme_milter.store import accounts, authority_health, enrollments
from acme_milter.worker import breaker, rollover
from tests.worker.account_desk import AccountDesk
from tests.worker.conftest import MakeOrderBench


class Killed(BaseException):
    """The worker ends here."""


@pytest.fixture
def desk(make_orders: MakeOrderBench) -> AccountDesk:
    desk = AccountDesk(make_orders())
    desk.bench.authorities.client("ca")
    return desk


def dies(*_: object) -> None:
    raise Killed


def exchanged(desk: AccountDesk, before: str) -> None:
    """The account has another key, in the store and at the CA, and works."""
    account = desk.one()
    assert account.thumbprint != before
    assert not account.is_changing
    assert account.key_since is not None
    assert account.last_error is None
    desk.bench.authorities.client("ca").fetch_account()
    desk.certify()


def test_the_next_key_takes_over_and_certificates_go_on(desk: AccountDesk) -> None:
    before = desk.one().thumbprint
    assert desk.outcomes("rollover-accounts") == {None: "asked"}
    assert desk.outcomes("rollover-accounts") == {None: "already-asked"}
    assert desk.one().thumbprint == before
    desk.rollover.work()
    exchanged(desk, before)
    assert len(desk.key_changes()) >= 1


@pytest.mark.parametrize(
    "where",
    [
        "acme_milter.worker.rollover.key_change.holder_of",
        "acme_milter.worker.rollover.key_change.roll_over",
        "acme_milter.worker.rollover.accounts.adopt_next_key",
    ],
    ids=["before it was asked for", "before it was offered", "after the authority took it"],
)
def test_a_worker_that_is_killed_leaves_nothing_undone(
    desk: AccountDesk, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    before = desk.one().thumbprint
    desk.ask("rollover-accounts")
    with monkeypatch.context() as patched:
        patched.setattr(where, dies)
        with pytest.raises(Killed):
            desk.rollover.work()
    assert desk.one().thumbprint == before
    desk.make_rollover().work()
    assert desk.one().thumbprint == before, "the dead worker's turn is not over yet"
    desk.work_later()
    exchanged(desk, before)


def test_a_lost_answer_is_made_up_for_by_asking_with_the_next_key(desk: AccountDesk) -> None:
    before, ca = desk.one(), desk.bench.site.authority
    desk.ask("rollover-accounts")
    upcoming = desk.one().next_thumbprint
    offered: Callable[..., None] = key_change.roll_over

    def cut(*arguments: object) -> None:
        ca.set_knobs(HTTP_RESET_AFTER_COMMIT=100)
        try:
            offered(*arguments)
        finally:
            ca.reset_knobs()

    changes = len(desk.key_changes())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(key_change, "roll_over", cut)
        desk.rollover.work()
    assert desk.one().thumbprint == before.thumbprint
    assert desk.one().last_error is not None
    desk.work_later()
    assert desk.one().thumbprint == upcoming
    assert len(desk.key_changes()) == changes + 1, "it was not exchanged twice"
    exchanged(desk, before.thumbprint)


def test_it_waits_while_a_challenge_is_open_and_nothing_new_is_ordered_meanwhile(
    make_orders: MakeOrderBench,
) -> None:
    desk = AccountDesk(make_orders(mailboxes=2))
    bench = desk.bench
    first, second = bench.addresses
    waiting = bench.step_until(bench.open(first), State.AWAITING_MAIL)
    before = desk.one().thumbprint
    (row,) = desk.ask("rollover-accounts")["accounts"]
    assert row["waits_for"] == 1
    desk.rollover.work()
    assert desk.one().thumbprint == before
    planned = bench.open(second)
    assert isinstance(bench.driver.take_step(planned).event, Deferred)
    with bench.database.read() as connection:
        room = bench.pacer.room(connection, "ca", bench.clock())
    assert (room.places, room.limited_by) == (0, "an account's key is being exchanged")
    bench.step_until(bench.answer_mail(waiting), State.ACTIVE)
    desk.work_later()
    assert desk.one().thumbprint != before
    done = bench.step_until(bench.step_until(planned, State.AWAITING_MAIL), State.AWAITING_MAIL)
    assert bench.step_until(bench.answer_mail(done), State.ACTIVE).account_id == desk.one().id


def test_an_order_whose_request_may_be_out_counts_as_open(desk: AccountDesk) -> None:
    bench = desk.bench
    ordering = bench.step_until(bench.open(), State.ORDERING)
    assert ordering.order_url is None
    account, now = desk.one(), bench.clock()
    with bench.database.read() as connection:
        assert accounts.open_challenges(connection, account, now) == 0
    with bench.database.write() as connection:
        assert enrollments.claim(
            connection, ordering.id, owner="another", now=bench.clock(), until=now + timedelta(minutes=5)
        )
        assert accounts.open_challenges(connection, account, now) == 1


def test_two_workers_exchange_a_key_once(desk: AccountDesk) -> None:
    changes = len(desk.key_changes())
    desk.ask("rollover-accounts")
    other = desk.make_rollover()
    now = desk.bench.clock()
    with desk.bench.database.write() as connection:
        assert accounts.claim_exchange(connection, desk.one().id, now=now, until=now + rollover.LEASE) is not None
    other.work()
    assert len(desk.key_changes()) == changes
    desk.work_later()
    other.work()
    assert len(desk.key_changes()) == changes + 1


def test_an_authority_that_will_not_take_it_leaves_the_old_key_in_use(
    desk: AccountDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = desk.one().thumbprint

    def refuse(*_: object) -> None:
        raise ServerRefused("badPublicKey", problem=Problem.of(ErrorType.BAD_PUBLIC_KEY, "weak", status=400))

    monkeypatch.setattr(key_change, "roll_over", refuse)
    desk.ask("rollover-accounts")
    desk.rollover.work()
    account = desk.one()
    assert (account.thumbprint, account.is_changing) == (before, False)
    assert account.last_error == "badPublicKey"
    desk.certify()


def test_an_authority_that_does_not_answer_is_tried_again(desk: AccountDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    before = desk.one().thumbprint

    def silent(*_: object) -> None:
        raise ServerBusy("no answer")

    desk.ask("rollover-accounts")
    with monkeypatch.context() as patched:
        patched.setattr(key_change, "roll_over", silent)
        desk.rollover.work()
    account = desk.one()
    assert (account.thumbprint, account.is_changing, account.last_error) == (before, True, "no answer")
    desk.work_later()
    exchanged(desk, before)


def test_who_asks_again_has_a_failed_exchange_tried_at_once_but_not_one_that_is_under_way(
    desk: AccountDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = desk.one().thumbprint
    answers: list[dict[str | None, str]] = []

    def silent(*_: object) -> None:
        answers.append(desk.outcomes("rollover-accounts"))
        raise ServerBusy("no answer", retry_after=timedelta(hours=5))

    desk.ask("rollover-accounts")
    with monkeypatch.context() as patched:
        patched.setattr(key_change, "roll_over", silent)
        desk.rollover.work()
        desk.outcomes("rollover-accounts")
        desk.rollover.work()
        assert len(answers) == 2, "the second try did not wait for five hours"
    assert answers == [{None: "already-asked"}] * 2, "another worker's turn is its own"
    assert desk.outcomes("rollover-accounts") == {None: "tried-at-once"}
    desk.rollover.work()
    exchanged(desk, before)


def test_an_authority_that_answers_no_exchange_is_broken_so_that_orders_go_elsewhere(
    desk: AccountDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: object) -> None:
        raise ServerBusy("no answer")

    monkeypatch.setattr(key_change, "roll_over", silent)
    desk.ask("rollover-accounts")
    for turn in range(breaker.FAILURES):
        with desk.bench.moved_ahead(minutes=turn):
            desk.rollover.work()
    with desk.bench.database.read() as connection:
        health = authority_health.get(connection, "ca")
    assert (health.is_open, health.last_error) == (True, "no answer")


def test_an_account_is_not_closed_in_the_middle_of_an_exchange(desk: AccountDesk) -> None:
    desk.ask("rollover-accounts")
    assert "being exchanged" in desk.ask("deactivate-accounts")["text"]
    assert desk.one().deactivated_at is None


def test_an_exchange_of_one_mailboxs_key_holds_back_that_mailbox_only(make_orders: MakeOrderBench) -> None:
    desk = AccountDesk(make_orders(mailboxes=2, authority={"account": "per_mailbox"}))
    bench = desk.bench
    first, second = bench.addresses
    bench.authorities.account("ca", first)
    desk.ask("rollover-accounts", account=first)
    with bench.database.read() as connection:
        assert bench.pacer.room(connection, "ca", bench.clock()).places > 0
    assert isinstance(bench.driver.take_step(bench.open(first)).event, Deferred)
    assert desk.certify(second).state is State.ACTIVE


def test_an_exchange_at_a_directory_that_is_not_asked_any_more_is_given_up_and_stops_nothing(
    desk: AccountDesk,
) -> None:
    bench, before = desk.bench, desk.one()
    desk.ask("rollover-accounts")
    bench.configure({"directory": f"{bench.site.authority.directory_url}?moved"}, {})
    with bench.database.read() as connection:
        assert bench.pacer.room(connection, "ca", bench.clock()).places > 0
    desk.rollover.work()
    account = desk.one()
    assert (account.thumbprint, account.is_changing) == (before.thumbprint, False)
    assert "authorities.ca.directory has changed" in str(account.last_error)
    desk.certify()
