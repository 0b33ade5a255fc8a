# SPDX-License-Identifier: GPL-3.0-or-later
"""The configured authorities as ACME clients: connections, account keys in keyd, accounts registered once."""

import base64
import json
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import josepy.jwk

from acme_milter import __version__
from acme_milter.acme.account import Eab
from acme_milter.acme.client import AcmeClient
from acme_milter.acme.network import Network
from acme_milter.certificate.lint import MISSING, lint_is_installed
from acme_milter.config.schema import Authority, Config
from acme_milter.config.schema import Eab as EabSection
from acme_milter.config.secret import SecretUnavailable
from acme_milter.eventlog import Event, log_event
from acme_milter.keys.client import KeydClient
from acme_milter.store import accounts
from acme_milter.store.accounts import StoredAccount
from acme_milter.store.database import Database

USER_AGENT = f"acme-milter/{__version__}"


class AuthorityUnusable(Exception):
    """The authority cannot be used as it is configured; the text names the key and what is wrong with it."""

    safe_text = True


@dataclass(frozen=True, slots=True)
class KeydSigner:
    """Signs an authority's requests in keyd (acme.network.Signer)."""

    keyd: KeydClient
    account: StoredAccount = field(repr=False)

    @property
    def jwk(self) -> Mapping[str, str]:
        public: dict[str, str] = json.loads(self.account.jwk)
        return public

    @property
    def thumbprint(self) -> str:
        return self.account.thumbprint

    def sign(self, signing_input: bytes) -> bytes:
        return self.keyd.sign_jws(self.account.id, self.account.authority, self.account.sealed_key, signing_input)


class Authorities:
    """One client for each authority, made when it is first needed; safe for any number of threads."""

    def __init__(
        self, *, config: Callable[[], Config], database: Database, keyd: KeydClient, clock: Callable[[], datetime]
    ) -> None:
        self._config = config
        self._database = database
        self._keyd = keyd
        self._clock = clock
        self._clients: dict[str, tuple[Authority, AcmeClient]] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def client(self, name: str) -> AcmeClient:
        """The client of authority ``name``, with a registered account.

        One whose settings have changed is made anew; whoever is working with the old one can go on doing so.
        Raises AcmeError when the authority does not answer or refuses, keys' errors when keyd is away, and
        AuthorityUnusable when what the configuration says of it cannot be used.
        """
        ready = self._ready(name)
        if ready is not None:
            return ready
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:  # a hundred mailboxes that start together register one account
            ready = self._ready(name)
            if ready is not None:
                return ready
            authority = self._config().authorities.get(name)
            if authority is None:
                raise AuthorityUnusable(f"authorities.{name} is not configured any more")
            made = self._connect(name, authority)
            self._clients[name] = authority, made
            return made

    def _ready(self, name: str) -> AcmeClient | None:
        """The client that there is, when it was made with the settings of now."""
        authority = self._config().authorities.get(name)
        made_with, client = self._clients.get(name, (None, None))
        return client if made_with is authority or made_with == authority else None

    def clock_skew(self, name: str) -> timedelta | None:
        """Our clock minus the authority's, by its latest answer; None before the first one."""
        _, client = self._clients.get(name, (None, None))
        return None if client is None else client.network.clock_skew

    def is_known(self, name: str) -> bool:
        """Whether there is an account with it already, so that asking it something does not make one."""
        authority = self._config().authorities.get(name)
        if authority is None or name in self._clients:
            return authority is not None
        with self._database.read() as connection:
            account = accounts.find(connection, name, authority.directory)
        return account is not None and account.url is not None

    def close(self) -> None:
        for _, client in self._clients.values():
            client.network.close()

    def _connect(self, name: str, authority: Authority) -> AcmeClient:
        if authority.lint == "require" and not lint_is_installed():  # before anything is ordered in vain
            raise AuthorityUnusable(f"authorities.{name}.lint: {MISSING}")
        try:
            network = Network(
                authority.directory,
                ca_bundle=authority.ca_bundle,
                user_agent=USER_AGENT,
                connections=authority.limits.connections,
                clock=self._clock,
            )
        except OSError as error:
            raise AuthorityUnusable(
                f"authorities.{name}.ca_bundle: {authority.ca_bundle}: {error.strerror or 'no certificates in it'}"
            ) from None
        try:
            account = self._account_with_key(name, authority)
            signer = KeydSigner(self._keyd, account)
            if account.url is not None:
                return AcmeClient(network, signer, account.url)
            return self._register(network, signer, name, authority)
        except BaseException:
            network.close()
            raise

    def _account_with_key(self, name: str, authority: Authority) -> StoredAccount:
        """RFC 8555 §11.1: a key of its own, stored before the authority hears of it."""
        with self._database.read() as connection:
            known = accounts.find(connection, name, authority.directory)
        if known is not None:
            return known
        account_id = uuid.uuid4().hex
        made = self._keyd.new_account_key(account_id, name)
        account = StoredAccount(
            id=account_id,
            authority=name,
            directory_url=authority.directory,
            sealed_key=made.sealed,
            jwk=json.dumps(dict(made.jwk), sort_keys=True),
            thumbprint=_thumbprint(made.jwk),
            url=None,
            terms_url=None,
            created_at=self._clock(),
        )
        with self._database.write() as connection:
            # A worker on another host may have been quicker; its account is then everybody's.
            known = accounts.find(connection, name, authority.directory)
            if known is None:
                accounts.insert(connection, account)
        return known or account

    def _register(self, network: Network, signer: KeydSigner, name: str, authority: Authority) -> AcmeClient:
        """RFC 8555 §7.3. For a key that the authority knows already, newAccount answers the existing account."""
        eab = None if authority.eab is None else _external_account(name, authority.eab)
        client = AcmeClient.register(network, signer, contact=authority.contact, agree_tos=authority.agree_tos, eab=eab)
        terms_url = network.directory().meta.terms
        with self._database.write() as connection:
            accounts.set_url(connection, signer.account.id, url=client.account_url, terms_url=terms_url)
        log_event(Event.ACCOUNT_READY, authority=name, account=client.account_url, terms=terms_url)
        return client


def _external_account(name: str, configured: EabSection) -> Eab:
    try:
        return Eab.from_text(configured.kid.read(), configured.hmac.read())
    except (SecretUnavailable, ValueError) as error:
        raise AuthorityUnusable(f"authorities.{name}.eab: {error}") from None


def _thumbprint(jwk: Mapping[str, str]) -> str:
    """RFC 7638 with SHA-256, base64url without padding, as RFC 8555 §8.1 wants it."""
    key = josepy.jwk.JWKEC.from_json(dict(jwk))
    assert isinstance(key, josepy.jwk.JWKEC)  # keyd makes account keys of this kind only
    return base64.urlsafe_b64encode(key.thumbprint()).rstrip(b"=").decode("ascii")
