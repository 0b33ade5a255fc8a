# SPDX-License-Identifier: GPL-3.0-or-later
"""Which account is whose: one for everybody, one for each domain, one for each mailbox; made when first needed."""

import base64
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import josepy.jwk

from acme_milter.acme import account as acme_account
from acme_milter.acme.account import Eab
from acme_milter.acme.network import Network
from acme_milter.config.schema import Authority
from acme_milter.config.schema import Eab as EabSection
from acme_milter.config.secret import SecretUnavailable
from acme_milter.enrollment.account_scope import account_scope
from acme_milter.eventlog import Event, log_event
from acme_milter.keys.client import KeydClient
from acme_milter.store import accounts, audit
from acme_milter.store.accounts import StoredAccount
from acme_milter.store.database import Database


class AuthorityUnusable(Exception):
    """The authority cannot be used as it is configured; the text names the key and what is wrong with it."""

    safe_text = True


class AccountGone(AuthorityUnusable):
    """The account that something was ordered with cannot be used any more, and nobody else can see the order."""


@dataclass(frozen=True, slots=True)
class KeydSigner:
    """Signs an authority's requests in keyd (acme.network.Signer). With `next_sealed_key` it signs the change to that
    key, and nothing else.
    """

    keyd: KeydClient
    account: StoredAccount = field(repr=False)
    next_sealed_key: bytes | None = field(default=None, repr=False)

    @property
    def jwk(self) -> Mapping[str, str]:
        public: dict[str, str] = json.loads(self.account.jwk)
        return public

    @property
    def thumbprint(self) -> str:
        return self.account.thumbprint

    def sign(self, signing_input: bytes) -> bytes:
        account = self.account
        return self.keyd.sign_jws(
            account.id, account.authority, account.sealed_key, signing_input, self.next_sealed_key
        )


def scope_of(name: str, settings: Authority, address: str | None) -> str:
    """Whose account a mailbox orders with. Raises AuthorityUnusable where that needs a mailbox and there is none."""
    if address is None and settings.account != "shared":
        raise AuthorityUnusable(f"authorities.{name}.account is {settings.account}: say for whom, with --account")
    return account_scope(settings.account, address or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """Keys are made by keyd and stored, sealed, before an authority hears of them (RFC 8555 §11.1)."""

    database: Database
    keyd: KeydClient
    clock: Callable[[], datetime]

    def find(self, name: str, settings: Authority, scope: str) -> StoredAccount | None:
        """The account in use."""
        with self.database.read() as connection:
            return accounts.find(connection, name, settings.directory, scope)

    def make(self, name: str, settings: Authority, scope: str, *, anew: bool) -> StoredAccount:
        """A key for an account that there is not yet. One that was closed is followed only by one ``anew``.

        Raises AuthorityUnusable for that, and keys' errors when keyd is away.
        """
        with self.database.read() as connection:
            closed = accounts.latest_deactivated(connection, name, settings.directory, scope)
        if closed is not None and not anew:
            raise AuthorityUnusable(_closed(name, closed))
        account_id = uuid.uuid4().hex
        made = self.keyd.new_account_key(account_id, name)
        account = StoredAccount(
            id=account_id,
            authority=name,
            directory_url=settings.directory,
            sealed_key=made.sealed,
            jwk=public_text(made.jwk),
            thumbprint=thumbprint_of(made.jwk),
            url=None,
            terms_url=None,
            created_at=self.clock(),
            scope=scope,
        )
        with self.database.write() as connection:
            # A worker on another host may have been quicker; its account is then everybody's.
            known = accounts.find(connection, name, settings.directory, scope)
            if known is None:
                accounts.insert(connection, account)
        return known or account

    def register(self, network: Network, account: StoredAccount, settings: Authority) -> StoredAccount:
        """RFC 8555 §7.3. For a key that the authority knows already, newAccount answers the existing account."""
        eab = None if settings.eab is None else _external_account(account.authority, settings.eab)
        signer = KeydSigner(self.keyd, account)
        found = acme_account.register(network, signer, contact=settings.contact, agree_tos=settings.agree_tos, eab=eab)
        now = self.clock()
        with self.database.write() as connection:
            accounts.set_url(connection, account.id, url=found.url, terms_url=found.terms_url, at=now)
            audit.record(
                connection,
                Event.ACCOUNT_READY,
                at=now,
                details={
                    "authority": account.authority,
                    "scope": account.scope,
                    "account": found.url,
                    "terms": found.terms_url,
                },
            )
            after = accounts.get(connection, account.id)
        assert after is not None  # nothing removes accounts
        log_event(
            Event.ACCOUNT_READY,
            authority=account.authority,
            scope=account.scope or None,
            account=found.url,
            terms=found.terms_url,
        )
        return after


def _closed(name: str, closed: StoredAccount) -> str:
    assert closed.deactivated_at is not None
    whose = f" --account {closed.scope}" if closed.scope else ""
    return (
        f"the account at {name} was deactivated on {closed.deactivated_at:%Y-%m-%d}; for a new one run:"
        f" acme-milter authority register {name}{whose} --again"
    )


def _external_account(name: str, configured: EabSection) -> Eab:
    try:
        return Eab.from_text(configured.kid.read(), configured.hmac.read())
    except (SecretUnavailable, ValueError) as error:
        raise AuthorityUnusable(f"authorities.{name}.eab: {error}") from None


def public_text(jwk: Mapping[str, str]) -> str:
    """A public key as it is stored."""
    return json.dumps(dict(jwk), sort_keys=True)


def thumbprint_of(jwk: Mapping[str, str]) -> str:
    """RFC 7638 with SHA-256, base64url without padding, as RFC 8555 §8.1 wants it."""
    key = josepy.jwk.JWKEC.from_json(dict(jwk))
    assert isinstance(key, josepy.jwk.JWKEC)  # keyd makes account keys of this kind only
    return base64.urlsafe_b64encode(key.thumbprint()).rstrip(b"=").decode("ascii")
