# SPDX-License-Identifier: GPL-3.0-or-later
"""One account at one authority, one HTTP step a call."""

from collections.abc import Sequence

from acme_milter.acme import account, authorization, key_change, order, renewal_info, revocation
from acme_milter.acme.account import AccountRef, Eab
from acme_milter.acme.authorization import Authorization, EmailChallenge
from acme_milter.acme.jws import Signer
from acme_milter.acme.network import Network
from acme_milter.acme.order import CertificateChain, Order
from acme_milter.acme.renewal_info import RenewalInfo
from acme_milter.acme.revocation import RevocationReason


class AcmeClient:
    """The steps of RFC 8555 for an existing account. Holds no state of its own: as thread-safe as `network`.

    Each call is one request, plus the directory or a nonce when none is at hand. Waiting, repeating and
    remembering are the caller's. All raise AcmeError's subclasses, and pass through what the signer raises.
    """

    def __init__(self, network: Network, signer: Signer, account_url: str) -> None:
        """account_url: as `register` returned it, verbatim (RFC 8555 §6.2: it is the `kid`)."""
        self.network = network
        self.signer = signer
        self.account_url = account_url

    @classmethod
    def register(
        cls, network: Network, signer: Signer, contact: Sequence[str], agree_tos: bool, eab: Eab | None = None
    ) -> "AcmeClient":
        """Create or find the account of this key; store `account_url`. See `account.register`."""
        return cls(network, signer, account.register(network, signer, contact, agree_tos, eab).url)

    @classmethod
    def find(cls, network: Network, signer: Signer) -> "AcmeClient | None":
        """The client of an existing account, or None. See `account.find`."""
        found = account.find(network, signer)
        return None if found is None else cls(network, signer, found.url)

    @property
    def thumbprint(self) -> str:
        """The account key's thumbprint, as key authorizations need it (RFC 8555 §8.1)."""
        return self.signer.thumbprint

    def fetch_account(self) -> AccountRef:
        """See `account.fetch`."""
        return account.fetch(self.network, self.signer, self.account_url)

    def update_contact(self, contact: Sequence[str]) -> AccountRef:
        """See `account.update`."""
        return account.update(self.network, self.signer, self.account_url, contact)

    def deactivate_account(self) -> AccountRef:
        """See `account.deactivate`."""
        return account.deactivate(self.network, self.signer, self.account_url)

    def roll_over(self, new_signer: Signer) -> "AcmeClient":
        """Exchange the account key; returns the client that goes on with it. See `key_change.roll_over`."""
        key_change.roll_over(self.network, self.signer, self.account_url, new_signer)
        return AcmeClient(self.network, new_signer, self.account_url)

    def new_order(
        self, address: str, profile: str | None = None, replaces: str | None = None, aliases: Sequence[str] = ()
    ) -> Order:
        """See `order.new_order`."""
        return order.new_order(self.network, self.signer, self.account_url, address, profile, replaces, aliases)

    def fetch_order(self, url: str) -> Order:
        """See `order.fetch_order`."""
        return order.fetch_order(self.network, self.signer, self.account_url, url)

    def finalize(self, placed: Order, csr_der: bytes) -> Order:
        """See `order.finalize`."""
        return order.finalize(self.network, self.signer, self.account_url, placed, csr_der)

    def download(self, url: str) -> bytes:
        """The PEM chain. See `order.download_chain`."""
        return self.download_chain(url).pem

    def download_chain(self, url: str) -> CertificateChain:
        """The PEM chain and where alternates are. See `order.download_chain`."""
        return order.download_chain(self.network, self.signer, self.account_url, url)

    def fetch_authorization(self, url: str) -> Authorization:
        """See `authorization.fetch_authorization`."""
        return authorization.fetch_authorization(self.network, self.signer, self.account_url, url)

    def respond(self, challenge_url: str) -> EmailChallenge:
        """See `authorization.respond`."""
        return authorization.respond(self.network, self.signer, self.account_url, challenge_url)

    def deactivate_authorization(self, url: str) -> Authorization:
        """See `authorization.deactivate_authorization`."""
        return authorization.deactivate_authorization(self.network, self.signer, self.account_url, url)

    def revoke(self, certificate_der: bytes, reason: RevocationReason | None = None) -> bool:
        """See `revocation.revoke`."""
        return revocation.revoke(self.network, self.signer, self.account_url, certificate_der, reason)

    def renewal_info(self, renewal_id: str) -> RenewalInfo | None:
        """See `renewal_info.renewal_info`."""
        return renewal_info.renewal_info(self.network, renewal_id)
