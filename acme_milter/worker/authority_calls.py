# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person does with accounts at authorities: register, agree to terms, exchange keys, deactivate."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from acme_milter.acme import account as acme_account
from acme_milter.acme.problem import AcmeError, ErrorType, ServerRefused
from acme_milter.config.schema import Config
from acme_milter.enrollment.staging import rehearsed_for
from acme_milter.enrollment.state_machine import Cancelled, advance
from acme_milter.eventlog import Event, log_event
from acme_milter.keys.client import KeydUnavailable
from acme_milter.keys.refusal import KeydRefused
from acme_milter.store import accounts, audit, enrollments
from acme_milter.store.accounts import StoredAccount
from acme_milter.store.database import Database
from acme_milter.worker.authorities import Authorities, AuthorityUnusable
from acme_milter.worker.breaker import judged, tell
from acme_milter.worker.control import Answer
from acme_milter.worker.lost_account import healed, is_lost, order_anew
from acme_milter.worker.rollover import Rollover

Document = dict[str, object]


class Impossible(Exception):
    """What was asked for cannot be done; the text is for whoever asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityCalls:
    """The control socket's calls. Each takes ``authority``, and in ``account`` whose: a domain, or a mailbox."""

    config: Callable[[], Config]
    database: Database
    authorities: Authorities
    rollover: Rollover
    clock: Callable[[], datetime]
    exchange_soon: Callable[[], None]

    def answers(self) -> dict[str, Answer]:
        calls = {
            "register-account": self._register,
            "rollover-accounts": self._roll_over,
            "deactivate-accounts": self._deactivate,
        }
        return {name: _in_words(call) for name, call in calls.items()}

    def _register(self, header: Document) -> Document:
        """``agree``: to the terms in force now; ``again``: also where an account was deactivated."""
        name = self._name(header)
        results = []
        for address in self._whose(name, header):
            before = self._known(name)
            account = self.authorities.account(name, address, anew=bool(header.get("again")))
            outcome = "already-registered" if account.id in before else "registered"
            if outcome == "registered":
                self._mended(name)
            if header.get("agree"):
                account = self._agree(account)
                outcome = "agreed" if outcome == "already-registered" else outcome
            results.append(_row(account, outcome))
        return {"authority": name, "accounts": results}

    def _mended(self, name: str) -> None:
        """Another account is in the place of one that the authority had lost: nobody needs to wait for a probe."""
        now = self.clock()
        with self.database.write() as connection:
            change = judged(connection, name, healed, now)
        tell(*change)

    def _agree(self, account: StoredAccount) -> StoredAccount:
        """RFC 8555 §7.3.3: the account object says so, and we keep to what."""
        client = self.authorities.client_with(account)
        found = acme_account.agree(client.network, client.signer, client.account_url)
        now = self.clock()
        with self.database.write() as connection:
            accounts.agree(connection, account.id, found.terms_url, now)
            details = {"authority": account.authority, "scope": account.scope, "terms": found.terms_url}
            audit.record(connection, Event.ACCOUNT_READY, at=now, details=details)
            after = accounts.get(connection, account.id)
        assert after is not None  # nothing removes accounts
        return after

    def _roll_over(self, header: Document) -> Document:
        """Keeps the next keys; each takes over as soon as no challenge of its account is open. One that waits for its
        next try has it at once.
        """
        name = self._name(header)
        results = []
        for account in self._chosen(name, header):
            if self.rollover.hurry(account):
                outcome = "tried-at-once"
            else:
                outcome = "asked" if self.rollover.begin(account) else "already-asked"
            with self.database.read() as connection:
                waits_for = accounts.open_challenges(connection, account, self.clock())
            results.append(_row(account, outcome) | {"waits_for": waits_for})
        self.exchange_soon()
        return {"authority": name, "accounts": results}

    def _deactivate(self, header: Document) -> Document:
        """RFC 8555 §7.3.6: for good. ``all``: every account that there is, where nobody's is named."""
        name = self._name(header)
        chosen = self._chosen(name, header)
        if len(chosen) > 1 and not header.get("all"):
            raise Impossible(f"there are {len(chosen)} accounts at {name}; name one with --account, or say --all")
        return {"authority": name, "accounts": [self._close(account) for account in chosen]}

    def _close(self, account: StoredAccount) -> Document:
        if account.is_changing:
            raise Impossible("its key is being exchanged; wait for that, see: acme-milter authority show")
        client = self.authorities.client_with(account)
        lost = False
        try:
            client.deactivate_account()
        except ServerRefused as refused:
            # §7.3.6: what a closed account's requests are answered; so it was closed by an earlier one of these. An
            # authority that was set up anew knows it no more: only by closing it here another one can be made.
            closed, lost = refused.kind is ErrorType.UNAUTHORIZED and _status(refused) == 401, is_lost(refused)
            if not closed and not lost:
                raise
        now, ended = self.clock(), 0
        with self.database.write() as connection:
            accounts.deactivate(connection, account.id, now)
            for one in accounts.open_enrollments(connection, account):
                enrollment = enrollments.get(connection, one)
                assert enrollment is not None
                with contextlib.suppress(enrollments.StaleVersion):
                    if lost:
                        order_anew(connection, enrollment, now)
                    else:
                        cancel = Cancelled(last_error="the account that it was ordered with was deactivated")
                        enrollments.save(connection, advance(enrollment, cancel, now))
                    ended += 1
            details = {"authority": account.authority, "scope": account.scope, "account": account.url}
            audit.record(connection, Event.ACCOUNT_DEACTIVATED, at=now, details=details)
        log_event(
            Event.ACCOUNT_DEACTIVATED,
            authority=account.authority,
            scope=account.scope or None,
            account=account.url,
            cancelled=0 if lost else ended,
            ordered_anew=ended if lost else None,
        )
        return _row(account, "deactivated") | {"cancelled": 0 if lost else ended, "ordered_anew": ended if lost else 0}

    def _name(self, header: Document) -> str:
        name, known = str(header.get("authority")), self.config().authorities
        if name not in known:
            raise Impossible(f"no authority {name} is configured; there is {', '.join(known) or 'none'}")
        return name

    def _known(self, name: str) -> set[str]:
        with self.database.read() as connection:
            return {account.id for account in accounts.every(connection, name) if account.url is not None}

    def _whose(self, name: str, header: Document) -> list[str | None]:
        """For whom accounts are registered: somebody by name, everybody, or each domain that uses the authority."""
        config, account = self.config(), header.get("account")
        scope = config.authorities[name].account
        if scope == "shared" or account:
            return [str(account) if account else None]
        if scope == "per_mailbox":
            raise Impossible(f"authorities.{name}.account is per_mailbox: name a mailbox with --account")
        return [
            domain
            for domain, layers in config.layers.items()
            if any(rehearsed_for(name) in policy.authorities for policy in layers.every_policy())
        ]

    def _chosen(self, name: str, header: Document) -> list[StoredAccount]:
        directory, whose = self.config().authorities[name].directory, header.get("account")
        with self.database.read() as connection:
            found = [
                account
                for account in accounts.every(connection, name)
                if account.url is not None
                and account.deactivated_at is None
                and account.directory_url == directory
                and (not whose or account.scope == str(whose).lower())
            ]
        if not found:
            of = f" of {whose}" if whose else ""
            raise Impossible(f"there is no account{of} at {name}; make one with: acme-milter authority register {name}")
        return found


def _row(account: StoredAccount, outcome: str) -> Document:
    agreed = account.terms_agreed_at
    return {
        "account": account.scope or None,
        "url": account.url,
        "terms": account.terms_url,
        "terms_agreed_at": None if agreed is None else agreed.isoformat(),
        "outcome": outcome,
    }


def _status(refused: ServerRefused) -> int | None:
    return None if refused.problem is None else refused.problem.status


def _in_words(call: Callable[[Document], Document]) -> Answer:
    def answer(header: Document) -> Document:
        try:
            return call(header)
        except Impossible as error:
            return {"error": "impossible", "text": str(error)}
        except (AcmeError, AuthorityUnusable, KeydUnavailable, KeydRefused) as error:
            return {"error": "refused", "text": f"{header.get('authority')}: {error}"}

    return answer
