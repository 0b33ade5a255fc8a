# SPDX-License-Identifier: GPL-3.0-or-later
"""Accounts on an OrderBench: what a person asks for, and the exchange of keys, as the worker puts them together."""

from typing import Any

from acme_milter.enrollment.model import Enrollment, State
from acme_milter.store import accounts
from acme_milter.store.accounts import StoredAccount
from acme_milter.worker.authority_calls import AuthorityCalls
from acme_milter.worker.rollover import Rollover
from tests.worker.order_bench import OrderBench


class AccountDesk:
    """``calls`` are those of the control socket; nothing is exchanged but by ``rollover.work``."""

    def __init__(self, bench: OrderBench) -> None:
        self.bench = bench
        self.rollover = self.make_rollover()

    def make_rollover(self) -> Rollover:
        """As a worker that has just been started."""
        bench = self.bench
        return Rollover(database=bench.database, authorities=bench.authorities, keyd=bench.keyd, clock=bench.clock)

    def ask(self, call: str, authority: str = "ca", **arguments: object) -> dict[str, Any]:
        calls = AuthorityCalls(
            config=lambda: self.bench.config,
            database=self.bench.database,
            authorities=self.bench.authorities,
            rollover=self.rollover,
            clock=self.bench.clock,
            exchange_soon=lambda: None,
        )
        return calls.answers()[call]({"call": call, "authority": authority, **arguments})

    def work_later(self) -> None:
        """What another worker does when a dead one's turn is over."""
        with self.bench.moved_ahead(minutes=6):
            self.make_rollover().work()
        self.bench.authorities.network("ca").ask_the_time()

    def outcomes(self, call: str, **arguments: Any) -> dict[str | None, str]:
        """By whose account."""
        return {row["account"]: row["outcome"] for row in self.ask(call, **arguments)["accounts"]}

    def stored(self) -> list[StoredAccount]:
        with self.bench.database.read() as connection:
            return accounts.every(connection)

    def one(self) -> StoredAccount:
        (account,) = self.stored()
        return account

    def certify(self, address: str | None = None) -> Enrollment:
        """The whole way of one mailbox."""
        bench = self.bench
        waiting = bench.step_until(bench.open(address), State.AWAITING_MAIL)
        return bench.step_until(bench.answer_mail(waiting), State.ACTIVE)

    def key_changes(self) -> list[dict[str, Any]]:
        """Those that the CA has made."""
        return [event for event in self.bench.site.authority.history("account") if event.get("key_changed")]
