# SPDX-License-Identifier: GPL-3.0-or-later
"""Exchanges account keys (RFC 8555 §7.3.5): the next key is stored first, and nothing is open when it takes over.

Whether the authority has the next key is asked before it is offered, so that whatever was lost on the way, an answer
or this process, is found out by looking.
"""

import dataclasses
import logging
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from acme_milter.acme import key_change
from acme_milter.acme.key_change import Holder
from acme_milter.acme.problem import AcmeError, BadAnswer, ServerRefused
from acme_milter.enrollment.backoff import step_delay
from acme_milter.eventlog import Event, log_event
from acme_milter.keys.client import KeydClient, KeydUnavailable
from acme_milter.keys.refusal import KeydRefused
from acme_milter.store import accounts, audit
from acme_milter.store.accounts import StoredAccount
from acme_milter.store.authority_health import Health
from acme_milter.store.database import Database
from acme_milter.worker.accounts import public_text, thumbprint_of
from acme_milter.worker.agreement import wants_agreement
from acme_milter.worker.authorities import AccountGone, Authorities, AuthorityUnusable, KeydSigner
from acme_milter.worker.breaker import after_failure, is_failure, judged, tell

EVERY = timedelta(seconds=2)
LOOK_AGAIN = timedelta(seconds=5)
"""Pause of an exchange that waits until no challenge of the account is open."""

LEASE = timedelta(minutes=5)
AT_ONCE = 20


class KeyNotWanted(Exception):
    """The authority does not have the next key and will not take it; the text has its words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollover:
    """Any number of workers may do this at once; each exchange is one worker's at a time."""

    database: Database
    authorities: Authorities
    keyd: KeydClient
    clock: Callable[[], datetime]
    _failures: Counter[str] = field(default_factory=Counter)

    def begin(self, account: StoredAccount) -> bool:
        """Make and keep the next key; from now on nothing new begins with the account. False: it has one already.

        Raises keys' errors when keyd is away.
        """
        made = self.keyd.new_account_key(account.id, account.authority)
        with self.database.write() as connection:
            return accounts.begin_exchange(
                connection,
                account.id,
                sealed_key=made.sealed,
                jwk=public_text(made.jwk),
                thumbprint=thumbprint_of(made.jwk),
                at=self.clock(),
            )

    def hurry(self, account: StoredAccount) -> bool:
        """Have an exchange that was put off tried at once. False: it is about to be, or is being tried."""
        with self.database.write() as connection:
            return accounts.hurry_exchange(connection, account.id, self.clock())

    def work(self) -> None:
        """One round: what is due and waits for nothing."""
        with self.database.read() as connection:
            due = accounts.exchanges_due(connection, self.clock(), AT_ONCE)
        for account_id in due:
            self._exchange(account_id)

    def _exchange(self, account_id: str) -> None:
        now = self.clock()
        with self.database.write() as connection:
            account = accounts.claim_exchange(connection, account_id, now=now, until=now + LEASE)
            if account is None:
                return
            if accounts.open_challenges(connection, account, now):
                accounts.put_off_exchange(connection, account, now + LOOK_AGAIN, None)
                return
        try:
            self._offer(account)
        except (KeyNotWanted, AccountGone) as refusal:
            self._give_up(account, str(refusal))
        except (AcmeError, AuthorityUnusable, KeydUnavailable, KeydRefused) as error:
            self._put_off(account, error)
        else:
            self._adopt(account)

    def _put_off(self, account: StoredAccount, error: Exception) -> None:
        """Try it again later. While it waits no order tells that the authority is broken, so this one does."""
        self._failures[account.id] += 1
        pause = step_delay(self._failures[account.id], random.random())  # noqa: S311 spreads load, hides nothing
        asked = error.retry_after if isinstance(error, AcmeError) else None
        change: tuple[Health, Health] | None = None
        with self.database.write() as connection:
            now = self.clock()
            accounts.put_off_exchange(connection, account, now + max(pause, asked or timedelta(0)), str(error))
            if isinstance(error, AcmeError) and is_failure(error):
                change = judged(
                    connection, account.authority, lambda known: after_failure(known, str(error), now, account.id), now
                )
        if change is not None:
            tell(*change)

    def _offer(self, account: StoredAccount) -> None:
        """Return once the authority has the next key; raises KeyNotWanted when it never will."""
        client = self.authorities.client_with(account)
        if client.network.directory().key_change is None:
            raise KeyNotWanted("the authority offers no keyChange")
        upcoming = _next_of(self.keyd, account)
        match key_change.holder_of(client.network, upcoming, client.account_url):
            case Holder.THIS_ACCOUNT:
                return
            case Holder.ANOTHER_ACCOUNT:
                raise KeyNotWanted("the authority takes the next key for another account's")
        outgoing = KeydSigner(self.keyd, account, account.next_sealed_key)
        try:
            key_change.roll_over(client.network, outgoing, client.account_url, upcoming)
        except (ServerRefused, BadAnswer) as refused:
            if refused.temporary or wants_agreement(refused):
                raise
            # A refusal is no proof: the old key may be refused because the next one has taken its place.
            if key_change.holder_of(client.network, upcoming, client.account_url) is not Holder.THIS_ACCOUNT:
                raise KeyNotWanted(str(refused)) from None

    def _adopt(self, account: StoredAccount) -> None:
        now = self.clock()
        self._failures.pop(account.id, None)
        with self.database.write() as connection:
            if not accounts.adopt_next_key(connection, account, now):
                return
            audit.record(
                connection,
                Event.ACCOUNT_KEY_CHANGED,
                at=now,
                details={
                    "authority": account.authority,
                    "scope": account.scope,
                    "account": account.url,
                    "before": account.thumbprint,
                    "now": account.next_thumbprint,
                },
            )
        log_event(
            Event.ACCOUNT_KEY_CHANGED,
            authority=account.authority,
            scope=account.scope or None,
            account=account.url,
        )

    def _give_up(self, account: StoredAccount, error: str) -> None:
        self._failures.pop(account.id, None)
        with self.database.write() as connection:
            accounts.give_up_exchange(connection, account, error)
        log_event(
            Event.ACCOUNT_KEY_KEPT,
            level=logging.ERROR,
            authority=account.authority,
            scope=account.scope or None,
            account=account.url,
            error=error,
        )


def _next_of(keyd: KeydClient, account: StoredAccount) -> KeydSigner:
    """The account as it is to be."""
    assert account.next_sealed_key is not None
    assert account.next_jwk is not None
    assert account.next_thumbprint is not None
    upcoming = dataclasses.replace(
        account, sealed_key=account.next_sealed_key, jwk=account.next_jwk, thumbprint=account.next_thumbprint
    )
    return KeydSigner(keyd, upcoming)
