# SPDX-License-Identifier: GPL-3.0-or-later
"""An exchange of an account's key: which orders it holds back, for how long, and what to run."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from acme_milter.config.schema import Config
from acme_milter.enrollment.account_scope import account_scope
from acme_milter.enrollment.model import Enrollment, State
from acme_milter.store import accounts
from acme_milter.store.accounts import StoredAccount


@dataclass(frozen=True, slots=True)
class KeyExchange:
    """Of an account whose next key is not in use yet; ``waits_for`` so many open challenges."""

    account: StoredAccount
    waits_for: int

    def in_words(self) -> str:
        """What it waits for, after "the account has its next key"."""
        if self.waits_for == 1:
            return "which waits until 1 open challenge is answered"
        if self.waits_for:
            return f"which waits until {self.waits_for} open challenges are answered"
        if self.account.last_error is None:
            return "which is being exchanged just now"
        again = self.account.next_attempt_at
        when = "" if again is None else f"; the next try is at {again:%Y-%m-%d %H:%M} UTC"
        return f"whose exchange has failed so far: {self.account.last_error}{when}"

    def command(self) -> str:
        """One that was put off is tried at once when it is asked for again; else there is only to look."""
        if self.waits_for or self.account.last_error is None:
            return f"acme-milter authority show {self.account.authority}"
        return try_at_once(self.account)


def try_at_once(account: StoredAccount) -> str:
    """The command that has a failed exchange tried now."""
    whose = f" --account {account.scope}" if account.scope else ""
    return f"acme-milter authority rollover {account.authority}{whose}"


def holding_back(connection: sa.Connection, config: Config, order: Enrollment, now: datetime) -> KeyExchange | None:
    """The exchange that has to be over before the order is placed (RFC 8555 §7.3.5)."""
    settings = config.authorities.get(order.authority)
    if settings is None or order.state not in {State.PLANNED, State.ORDERING} or order.order_url is not None:
        return None
    account = accounts.ordered_with(connection, order) or accounts.find(
        connection, order.authority, settings.directory, account_scope(settings.account, order.address)
    )
    if account is None or not account.is_changing:
        return None
    return KeyExchange(account, accounts.open_challenges(connection, account, now))
