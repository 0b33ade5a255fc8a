# SPDX-License-Identifier: GPL-3.0-or-later
"""The configured authorities as ACME clients: a connection to each, and whose account a request is signed with."""

import hashlib
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from acme_milter import __version__
from acme_milter.acme.client import AcmeClient
from acme_milter.acme.network import Network
from acme_milter.acme.transport import tls_context
from acme_milter.config.fault import ConfigFaults, Fault
from acme_milter.config.schema import Authority, Config
from acme_milter.enrollment.model import Enrollment
from acme_milter.keys.client import KeydClient
from acme_milter.store import accounts, enrollments
from acme_milter.store.accounts import StoredAccount
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database
from acme_milter.worker.accounts import AccountGone, Accounts, AuthorityUnusable, KeydSigner, scope_of

__all__ = ["AccountGone", "Authorities", "AuthorityUnusable", "KeydSigner"]

USER_AGENT = f"acme-milter/{__version__}"

KEY_IS_FRESH = timedelta(minutes=5)
"""For so long after an exchange of keys a refusal may be one of a request that was signed before it."""


class Authorities:
    """One connection for each authority, made when it is first needed; safe for any number of threads.

    Accounts are read from the store each time: another host may have exchanged their keys.
    """

    def __init__(
        self, *, config: Callable[[], Config], database: Database, keyd: KeydClient, clock: Callable[[], datetime]
    ) -> None:
        self._config = config
        self._database = database
        self._keyd = keyd
        self._clock = clock
        self._accounts = Accounts(database=database, keyd=keyd, clock=clock)
        self._networks: dict[str, tuple[tuple[object, ...], Network]] = {}
        self._bundles: dict[Path, bytes] = {}  # SHA-256 of each ca_bundle, as it was at the last reload
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._lock = threading.Lock()

    def prepare(self, config: Config) -> None:
        """Look at each ca_bundle of a configuration that is about to be in force: changed ones count from then on.

        Raises ConfigFaults when one cannot be used, and then everything stays as it was.
        """
        bundles, faults = {}, []
        for name, settings in config.authorities.items():
            if settings.ca_bundle is not None:
                try:
                    bundles[settings.ca_bundle] = _digest_of(settings.ca_bundle)
                except OSError as error:
                    what = f"{settings.ca_bundle}: {error.strerror or 'no certificates in it'}"
                    faults.append(Fault(0, f"authorities.{name}.ca_bundle", what, config.path))
        if faults:
            raise ConfigFaults(faults)
        with self._lock:
            self._bundles = bundles

    def settings(self, name: str) -> Authority:
        """Raises AuthorityUnusable when there are none any more."""
        settings = self._config().authorities.get(name)
        if settings is None:
            raise AuthorityUnusable(f"authorities.{name} is not configured any more")
        return settings

    def network(self, name: str) -> Network:
        """The connection to an authority, for what needs no account.

        One whose directory or ca_bundle has changed is made anew; whoever is working with the old one can go on doing
        so. Raises AuthorityUnusable when what the configuration says of it cannot be used.
        """
        settings = self.settings(name)
        with self._lock:
            trusted = self._trusted(name, settings)
            wanted = (settings.directory, settings.ca_bundle, trusted, settings.limits.connections)
            made_with, network = self._networks.get(name, (None, None))
            if network is None or made_with != wanted:
                network = self._connect(name, settings)
                self._networks[name] = wanted, network
            return network

    def account(self, name: str, address: str | None = None, *, anew: bool = False) -> StoredAccount:
        """The registered account with which a mailbox orders; ``anew``: also where an earlier one was closed.

        Raises AcmeError when the authority does not answer or refuses, keys' errors when keyd is away, and
        AuthorityUnusable when what the configuration says of it cannot be used.
        """
        settings = self.settings(name)
        scope = scope_of(name, settings, address)
        known = self._accounts.find(name, settings, scope)
        if known is not None and known.url is not None:
            return known
        with self._lock:
            lock = self._locks.setdefault((name, scope), threading.Lock())
        with lock:  # a hundred mailboxes that start together register one account
            network = self.network(name)
            known = self._accounts.find(name, settings, scope)
            if known is None:
                known = self._accounts.make(name, settings, scope, anew=anew)
            return known if known.url is not None else self._accounts.register(network, known, settings)

    def client(self, name: str, address: str | None = None) -> AcmeClient:
        """What a mailbox orders with: the authority, by the account that is `account`'s. Raises as that does."""
        return self.client_with(self.account(name, address))

    def client_of(self, enrollment: Enrollment) -> AcmeClient:
        """The client that an enrollment was ordered with, or is to be: nobody else can see its order.

        Raises AccountGone when the account cannot be used any more, and else as `client` does.
        """
        account = self._ordered_with(enrollment)
        if account is None:
            return self.client(enrollment.authority, enrollment.address)
        if account.deactivated_at is not None:
            raise AccountGone("the account that it was ordered with was deactivated")
        return self.client_with(account)

    def client_that_issued(self, certificate: StoredCertificate) -> AcmeClient:
        """RFC 8555 §7.6: the account that a certificate was issued to may revoke it.

        Where that one was closed, or lives elsewhere than where requests go now, the one in use instead: authorities
        may take its word for the same mailbox.
        """
        with self._database.read() as connection:
            enrollment = enrollments.get(connection, certificate.enrollment_id)
            account = None if enrollment is None else accounts.ordered_with(connection, enrollment)
        directory = self.settings(certificate.authority).directory
        if account is None or account.deactivated_at is not None or account.directory_url != directory:
            return self.client(certificate.authority, certificate.address)
        return self.client_with(account)

    def client_with(self, account: StoredAccount) -> AcmeClient:
        """By one account. Raises AccountGone when it lives elsewhere than where requests go now."""
        if account.directory_url != self.settings(account.authority).directory:
            raise AccountGone(
                f"authorities.{account.authority}.directory has changed; the account is at {account.directory_url}"
            )
        assert account.url is not None  # `account` registers, and orders are placed with registered ones only
        return AcmeClient(self.network(account.authority), KeydSigner(self._keyd, account), account.url)

    def key_is_changing(self, enrollment: Enrollment) -> bool:
        """Whether nothing may be ordered just now, because the account's key is to be exchanged first."""
        settings = self.settings(enrollment.authority)
        scope = scope_of(enrollment.authority, settings, enrollment.address)
        found = self._ordered_with(enrollment) or self._accounts.find(enrollment.authority, settings, scope)
        return found is not None and found.is_changing

    def key_has_just_changed(self, enrollment: Enrollment | None) -> bool:
        """Whether a refusal may be due to the account's key: the request may have been signed with the one before."""
        account = None if enrollment is None else self._ordered_with(enrollment)
        if account is None:
            return False
        fresh = account.key_since is not None and abs(self._clock() - account.key_since) < KEY_IS_FRESH
        return fresh or account.is_changing

    def clock_skew(self, name: str) -> timedelta | None:
        """Our clock minus the authority's, by its latest answer; None before the first one."""
        _, network = self._networks.get(name, (None, None))
        return None if network is None else network.clock_skew

    def is_known(self, name: str) -> bool:
        """Whether there is an account with it already; one without is not asked anything of its own accord."""
        settings = self._config().authorities.get(name)
        if settings is None:
            return False
        with self._database.read() as connection:
            return accounts.number_in_use(connection, name, settings.directory) > 0

    def close(self) -> None:
        for _, network in self._networks.values():
            network.close()

    def _ordered_with(self, enrollment: Enrollment) -> StoredAccount | None:
        if enrollment.account_id is None and enrollment.began_ordering_at is None:
            return None
        with self._database.read() as connection:
            return accounts.ordered_with(connection, enrollment)

    def _trusted(self, name: str, settings: Authority) -> bytes | None:
        """What the ca_bundle was at the last reload, or is now where that was not looked at."""
        path = settings.ca_bundle
        if path is not None and path not in self._bundles:
            try:
                self._bundles[path] = _digest_of(path)
            except OSError as error:
                raise _unusable(name, path, error) from None
        return None if path is None else self._bundles[path]

    def _connect(self, name: str, settings: Authority) -> Network:
        try:
            return Network(
                settings.directory,
                ca_bundle=settings.ca_bundle,
                user_agent=USER_AGENT,
                connections=settings.limits.connections,
                clock=self._clock,
            )
        except OSError as error:
            raise _unusable(name, settings.ca_bundle, error) from None


def _digest_of(bundle: Path) -> bytes:
    """SHA-256 of certificates that can be trusted. Raises OSError when there are none."""
    tls_context(bundle)
    return hashlib.sha256(bundle.read_bytes()).digest()


def _unusable(name: str, bundle: Path | None, error: OSError) -> AuthorityUnusable:
    return AuthorityUnusable(f"authorities.{name}.ca_bundle: {bundle}: {error.strerror or 'no certificates in it'}")
