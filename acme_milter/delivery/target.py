# SPDX-License-Identifier: GPL-3.0-or-later
"""What is delivered and what is taken back, and what every target is: something that does so and says what it did."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from acme_milter.certificate.pkcs12 import P12Format
from acme_milter.certificate.usage import KeyUsageKind


class DeliveryFailed(Exception):
    """The target did not take it, or not give it back; the text says so in the other side's words, and what to do.

    `permanent`: nothing will change before a person changes something, so it is not tried again by itself.
    """

    safe_text = True

    def __init__(self, text: str, *, permanent: bool = False) -> None:
        super().__init__(text)
        self.permanent = permanent


class KeyFiles(Protocol):
    """Has keyd make files of the mailbox's key: whoever delivers never holds an unsealed one.

    Each raises DeliveryFailed: keyd is away, or the key is not here (custody csr) or here no more (deliver_once).
    """

    def pkcs12(self, p12_format: P12Format, *, include_chain: bool) -> tuple[bytes, str]:
        """A PKCS#12 file (DER) with certificate and key, and its passphrase."""

    def encrypted_pem(self) -> tuple[bytes, str]:
        """The key as encrypted PKCS#8 in PEM, and its passphrase."""

    def write_clear_pem(self, file: int) -> None:
        """Have keyd itself write the key, unencrypted PKCS#8 in PEM, to this open file descriptor."""


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A job that another worker may be given if it takes too long; `still_ours` says whether nobody has been."""

    still_ours: Callable[[], bool] = field(default=_always, repr=False, compare=False)

    def be_ours(self) -> None:
        """To be called before what cannot be undone, such as a file's new name. Raises DeliveryFailed."""
        if not self.still_ours():
            raise DeliveryFailed(
                "it took so long that another worker was given the job; what is still to do, is left to it"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel(Claimed):
    """One certificate on its way to one target. `chain_pem` begins with the mailbox's certificate; `serial` is
    lower-case hex; `address` has its domain as A-label. `beside` are the chains of the mailbox's other certificates in
    use, where signing and encryption have one each: a target that holds all of them has to know.
    """

    certificate_id: str
    address: str
    person_name: str | None
    serial: str
    not_before: datetime
    not_after: datetime
    usage: KeyUsageKind
    chain_pem: bytes = field(repr=False)
    key: KeyFiles = field(repr=False)
    beside: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone(Claimed):
    """One certificate that is to be at a target no more, for the reason `why`, which people and hooks are told.

    `beside` are the chains of the mailbox's certificates in use that are to stay there. `replaced` says that a newer
    certificate for the same use is there: what has the mailbox's name at the target is that one's.
    """

    certificate_id: str
    address: str
    serial: str
    usage: KeyUsageKind
    chain_pem: bytes = field(repr=False)
    beside: tuple[bytes, ...] = field(default=(), repr=False)
    replaced: bool = False
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """`outcome` says where it is now, in words for a person. `passphrases` are those that the target has not put
    anywhere, by the format of the file that they open: they are kept sealed until somebody asks.
    """

    outcome: str
    passphrases: Mapping[str, str] = field(default_factory=dict, repr=False)


class Target(Protocol):
    """Any number of threads may call it, but for one mailbox only one at a time."""

    def deliver(self, parcel: Parcel) -> Delivered:
        """Put it there. Doing so twice leaves the same as once. Raises DeliveryFailed."""

    def withdraw(self, gone: Gone) -> str:
        """Have it there no more, and say in words what was done; that it is not there any more is as good.

        Raises DeliveryFailed.
        """
