# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose account orders, answers and revokes; terms that are agreed to; accounts that are closed."""

from pathlib import Path

import pytest

from acme_milter.acme.problem import ErrorType, ServerRefused
from acme_milter.enrollment.model import Enrollment, State
from acme_milter.lab.processes import wait_until
from acme_milter.store import accounts, certificates, pauses, revocations
from acme_milter.store.schema import enrollment as enrollment_table
from acme_milter.worker.authorities import AuthorityUnusable
from acme_milter.worker.revoker import Revoker
from tests.worker.account_desk import AccountDesk
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import OrderBench
from tests.worker.site import DOMAIN


def the_desk(make_orders: MakeOrderBench, account: str = "shared", mailboxes: int = 1) -> AccountDesk:
    return AccountDesk(make_orders(mailboxes=mailboxes, authority={"account": account}))


def test_two_mailboxes_with_accounts_of_their_own_are_answered_with_the_key_of_each(
    make_orders: MakeOrderBench,
) -> None:
    desk = the_desk(make_orders, "per_mailbox", mailboxes=2)
    done = [desk.certify(address) for address in desk.bench.addresses]
    by_id = {account.id: account for account in desk.stored()}
    assert [by_id[str(one.account_id)].scope for one in done] == desk.bench.addresses
    assert len({account.thumbprint for account in by_id.values()}) == 2
    assert len({account.url for account in by_id.values()}) == 2


def test_an_account_that_the_authority_has_lost_can_be_closed_and_followed_by_another(
    make_orders: MakeOrderBench,
) -> None:
    desk = the_desk(make_orders)
    desk.bench.authorities.client("ca")
    lost = desk.one()
    with desk.bench.database.write() as connection:
        accounts.set_url(connection, lost.id, url=f"{lost.url}-lost", terms_url=None, at=desk.bench.clock())
    assert list(desk.outcomes("deactivate-accounts").values()) == ["deactivated"]
    desk.ask("register-account", again=True)
    assert desk.certify().account_id != lost.id


def test_the_mailboxes_of_a_domain_share_its_account(make_orders: MakeOrderBench) -> None:
    desk = the_desk(make_orders, "per_domain", mailboxes=2)
    for address in desk.bench.addresses:
        desk.certify(address)
    assert desk.one().scope == DOMAIN


def test_an_order_goes_on_with_its_account_when_the_scope_changes(make_orders: MakeOrderBench) -> None:
    desk = the_desk(make_orders)
    bench = desk.bench
    waiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    bench.configure({"account": "per_mailbox"}, {})
    active = bench.step_until(bench.answer_mail(waiting), State.ACTIVE)
    assert active.account_id == desk.one().id


def test_a_certificate_is_revoked_by_the_account_that_it_was_issued_to(make_orders: MakeOrderBench) -> None:
    desk = the_desk(make_orders, "per_mailbox")
    bench = desk.bench
    desk.certify()
    bench.configure({"account": "shared"}, {})
    bench.authorities.client("ca")
    (certificate,) = bench.certificates()
    with bench.database.write() as connection:
        revocations.ask(connection, certificate, 1, bench.clock(), by="test")
    revoker = Revoker(
        config=lambda: bench.config, database=bench.database, authorities=bench.authorities, clock=bench.clock
    )
    revoker.work_off("ca")
    with bench.database.read() as connection:
        done = revocations.get(connection, certificate.id)
        assert certificates.get(connection, certificate.id) == certificate
    assert done is not None
    assert done.done_at is not None
    assert len(desk.stored()) == 2


def test_whose_account_is_to_be_asked_for_where_there_are_several(make_orders: MakeOrderBench) -> None:
    desk = the_desk(make_orders, "per_mailbox")
    with pytest.raises(AuthorityUnusable, match="--account"):
        desk.bench.authorities.client("ca")
    assert "--account" in desk.ask("register-account")["text"]


def test_registering_keeps_the_terms_and_when_they_were_agreed_to(make_orders: MakeOrderBench) -> None:
    desk = the_desk(make_orders)
    (row,) = desk.ask("register-account")["accounts"]
    account = desk.one()
    assert row["outcome"] == "registered"
    assert row["terms"] == account.terms_url
    assert str(account.terms_url).endswith("/terms")
    assert account.terms_agreed_at is not None
    assert desk.outcomes("register-account") == {None: "already-registered"}


def test_every_domain_that_uses_the_authority_gets_its_account(make_orders: MakeOrderBench) -> None:
    desk = the_desk(make_orders, "per_domain")
    assert desk.outcomes("register-account") == {DOMAIN: "registered"}


def test_an_authority_that_is_not_configured_is_named_with_those_that_are(make_orders: MakeOrderBench) -> None:
    desk = the_desk(make_orders)
    assert desk.ask("register-account", authority="cb")["text"] == "no authority cb is configured; there is ca"


def test_what_an_authority_refuses_is_said_in_its_words(make_orders: MakeOrderBench, tmp_path: Path) -> None:
    desk = the_desk(make_orders)
    (tmp_path / "credential").write_text("c29tZXRoaW5n")
    (tmp_path / "credential").chmod(0o600)
    credential = {"file": str(tmp_path / "credential")}
    desk.bench.configure({"eab": {"kid": credential, "hmac": credential}}, {})
    assert desk.ask("register-account")["text"].startswith("ca: unauthorized")


class TestTerms:
    """RFC 8555 §7.3.3."""

    def test_new_terms_pause_the_authority_and_say_what_to_read(self, make_orders: MakeOrderBench) -> None:
        desk = the_desk(make_orders)
        bench = desk.bench
        bench.authorities.client("ca")
        bench.site.authority.set_knobs(TERMS_VERSION=2)
        scheduler = bench.start_scheduler()
        opened = bench.open()
        scheduler.wake()
        pause = self.await_pause(bench)
        assert pause.by_person
        assert "/terms/2" in pause.reason
        assert "/agree" in pause.reason
        assert "acme-milter authority register ca --agree" in pause.reason
        assert "acme-milter authority resume ca" in pause.reason
        assert bench.get(opened.id).is_open, "it waits for the person"

    @staticmethod
    def await_pause(bench: OrderBench) -> pauses.Pause:
        def found() -> pauses.Pause | None:
            with bench.database.read() as connection:
                return pauses.get(connection, "ca")

        wait_until(lambda: found() is not None, "the pause")
        pause = found()
        assert pause is not None
        return pause

    def test_agreeing_is_kept_and_lets_the_orders_go_on(self, make_orders: MakeOrderBench) -> None:
        desk = the_desk(make_orders)
        bench = desk.bench
        bench.authorities.client("ca")
        bench.site.authority.set_knobs(TERMS_VERSION=3)
        ordering = bench.step_until(bench.open(), State.ORDERING)
        with pytest.raises(ServerRefused) as refused:
            bench.driver.take_step(ordering)
        assert refused.value.kind is ErrorType.USER_ACTION_REQUIRED
        assert desk.outcomes("register-account", agree=True) == {None: "agreed"}
        assert str(desk.one().terms_url).endswith("/terms/3")
        waiting = bench.step_until(ordering, State.AWAITING_MAIL)
        assert waiting.order_url is not None


class TestDeactivating:
    """RFC 8555 §7.3.6."""

    def test_its_orders_end_and_nothing_makes_another_account_of_its_own_accord(
        self, make_orders: MakeOrderBench
    ) -> None:
        desk = the_desk(make_orders)
        bench = desk.bench
        waiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
        (row,) = desk.ask("deactivate-accounts")["accounts"]
        assert (row["outcome"], row["cancelled"]) == ("deactivated", 1)
        assert bench.get(waiting.id).state is State.CANCELLED
        with pytest.raises(AuthorityUnusable, match="acme-milter authority register ca --again"):
            bench.authorities.client("ca")
        assert desk.outcomes("register-account", again=True) == {None: "registered"}
        old, new = desk.stored()
        assert old.deactivated_at is not None
        assert new.thumbprint != old.thumbprint
        bench.authorities.client("ca").fetch_account()

    def test_what_was_done_before_the_answer_was_lost_is_done(self, make_orders: MakeOrderBench) -> None:
        desk = the_desk(make_orders)
        bench = desk.bench
        bench.authorities.client("ca").deactivate_account()
        assert desk.outcomes("deactivate-accounts") == {None: "deactivated"}

    def test_several_at_once_only_where_that_is_said(self, make_orders: MakeOrderBench) -> None:
        desk = the_desk(make_orders, "per_mailbox", mailboxes=2)
        for address in desk.bench.addresses:
            desk.bench.authorities.client("ca", address)
        assert "--all" in desk.ask("deactivate-accounts")["text"]
        first, second = desk.bench.addresses
        assert desk.outcomes("deactivate-accounts", account=first) == {first: "deactivated"}
        assert desk.outcomes("deactivate-accounts", all=True) == {second: "deactivated"}
        assert "there is no account" in desk.ask("deactivate-accounts")["text"]

    def test_a_certificate_of_a_closed_account_is_offered_for_revocation_by_the_one_in_use(
        self, make_orders: MakeOrderBench
    ) -> None:
        desk = the_desk(make_orders)
        bench = desk.bench
        desk.certify()
        desk.ask("deactivate-accounts")
        desk.ask("register-account", again=True)
        (certificate,) = bench.certificates()
        client = bench.authorities.client_that_issued(certificate)
        assert client.account_url == bench.authorities.client("ca").account_url


class TestOrdersWhoseAccountIsGone:
    """Nobody else can see them, and while one is open the mailbox gets no other."""

    @staticmethod
    def end_in_a_successor(desk: AccountDesk, enrollment: Enrollment, why: str) -> Enrollment:
        ended = desk.bench.step(enrollment)
        assert ended.state is State.FAILED
        assert why in str(ended.last_error)
        assert ended.successor_id is not None
        successor = desk.bench.get(ended.successor_id)
        assert successor.state is State.PLANNED
        return successor

    @staticmethod
    def move(desk: AccountDesk) -> None:
        """The same CA by another URL."""
        desk.bench.configure({"directory": f"{desk.bench.site.authority.directory_url}?moved"}, {})

    @staticmethod
    def forget_whose(desk: AccountDesk, enrollment: Enrollment) -> Enrollment:
        """As the upgrade leaves what was ordered before it."""
        with desk.bench.database.write() as connection:
            ours = enrollment_table.c.id == enrollment.id
            connection.execute(enrollment_table.update().where(ours).values(account_id=None))
        return desk.bench.get(enrollment.id)

    @pytest.mark.parametrize("known", [True, False], ids=["it says whose it is", "from before it did"])
    @pytest.mark.parametrize("state", [State.ORDERING, State.AWAITING_MAIL])
    def test_a_change_of_the_directory_ends_them(self, make_orders: MakeOrderBench, state: State, known: bool) -> None:
        desk = the_desk(make_orders)
        bench = desk.bench
        bench.site.authority.set_knobs(MAIL_LOSS=100)  # a challenge mail would move them meanwhile
        opened = bench.step_until(bench.open(), state)
        opened = opened if known else self.forget_whose(desk, opened)
        self.move(desk)
        successor = self.end_in_a_successor(desk, opened, "authorities.ca.directory has changed")
        assert bench.step_until(successor, State.AWAITING_MAIL).account_id != opened.account_id

    def test_their_deadline_is_reached_though_nobody_can_sign_for_them(self, make_orders: MakeOrderBench) -> None:
        desk = the_desk(make_orders)
        bench = desk.bench
        bench.site.authority.set_knobs(MAIL_LOSS=100)  # a challenge mail would move them meanwhile
        waiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
        self.close(desk)
        with bench.moved_ahead(days=2):
            self.end_in_a_successor(desk, waiting, "ran out of time")
        bench.authorities.network("ca").ask_the_time()

    @staticmethod
    def close(desk: AccountDesk) -> None:
        """As another worker does, between two looks of ours."""
        with desk.bench.database.write() as connection:
            accounts.deactivate(connection, desk.one().id, desk.bench.clock())

    @pytest.mark.parametrize("known", [True, False], ids=["it says whose it is", "from before it did"])
    def test_an_account_that_is_closed_while_ordering_begins_ends_them(
        self, make_orders: MakeOrderBench, known: bool
    ) -> None:
        desk = the_desk(make_orders)
        bench = desk.bench
        bench.site.authority.set_knobs(MAIL_LOSS=100)  # a challenge mail would move them meanwhile
        ordering = bench.step_until(bench.open(), State.ORDERING)
        ordering = ordering if known else self.forget_whose(desk, ordering)
        self.close(desk)
        successor = self.end_in_a_successor(desk, ordering, "deactivated")
        with pytest.raises(AuthorityUnusable, match="register ca --again"):
            bench.driver.take_step(successor)
        desk.ask("register-account", again=True)
        assert bench.step_until(successor, State.ORDERING).account_id == desk.stored()[-1].id

    def test_closing_ends_what_was_ordered_before_orders_said_whose_they_are(self, make_orders: MakeOrderBench) -> None:
        desk = AccountDesk(make_orders(mailboxes=2))
        bench = desk.bench
        bench.site.authority.set_knobs(MAIL_LOSS=100)  # a challenge mail would move them meanwhile
        first, second = bench.addresses
        waiting = self.forget_whose(desk, bench.step_until(bench.open(first), State.AWAITING_MAIL))
        planned = bench.open(second)
        (row,) = desk.ask("deactivate-accounts")["accounts"]
        assert row["cancelled"] == 1
        assert bench.get(waiting.id).state is State.CANCELLED
        assert bench.get(planned.id).state is State.PLANNED, "it was not begun with any account"

    def test_old_orders_and_certificates_stay_with_the_shared_account_when_the_scope_changes(
        self, make_orders: MakeOrderBench
    ) -> None:
        desk = the_desk(make_orders)
        bench = desk.bench
        waiting = self.forget_whose(desk, bench.step_until(bench.open(), State.AWAITING_MAIL))
        shared = desk.one()
        bench.configure({"account": "per_mailbox"}, {})
        own = bench.authorities.account("ca", bench.addresses[0])
        active = bench.step_until(bench.answer_mail(waiting), State.ACTIVE)
        assert bench.authorities.client_of(active).account_url == shared.url != own.url
        (certificate,) = bench.certificates()
        assert bench.authorities.client_that_issued(certificate).account_url == shared.url

    def test_a_certificate_whose_account_lives_elsewhere_is_offered_for_revocation_by_the_one_in_use(
        self, make_orders: MakeOrderBench
    ) -> None:
        desk = the_desk(make_orders)
        bench = desk.bench
        desk.certify()
        self.move(desk)
        (certificate,) = bench.certificates()
        client = bench.authorities.client_that_issued(certificate)
        assert client.account_url == bench.authorities.client("ca").account_url
        assert len(desk.stored()) == 2


def test_a_refusal_right_after_an_exchange_of_keys_is_not_taken_for_the_last_word(
    make_orders: MakeOrderBench,
) -> None:
    desk = the_desk(make_orders)
    bench = desk.bench
    ordering = bench.step_until(bench.open(), State.ORDERING)
    bench.site.authority.set_knobs(REFUSE_ADDRESS=ordering.address)
    account = desk.one()
    assert desk.rollover.begin(account)
    with bench.database.write() as connection:
        taken = accounts.get(connection, account.id)
        assert taken is not None
        accounts.give_up_exchange(connection, taken, "tried")
        assert accounts.get(connection, account.id) != account
    assert not bench.authorities.key_has_just_changed(ordering)
    desk.rollover.begin(account)
    desk.rollover.work()
    assert bench.authorities.key_has_just_changed(ordering)
    with pytest.raises(ServerRefused):
        bench.driver.take_step(ordering)
