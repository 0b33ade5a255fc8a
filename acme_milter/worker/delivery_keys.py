# SPDX-License-Identifier: GPL-3.0-or-later
"""A mailbox's key for whoever delivers it: keyd makes the files, from the sealed key that the store has."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from acme_milter.certificate.pkcs12 import P12Format
from acme_milter.delivery.target import DeliveryFailed
from acme_milter.keys.client import KeydClient, KeydUnavailable
from acme_milter.keys.refusal import KeydRefused
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.mailbox_keys import StoredMailboxKey
from acme_milter.worker.custody import why_withheld


class KeyNotHere(DeliveryFailed):
    """It never will be: nobody can do anything about it."""

    def __init__(self, why: str) -> None:
        super().__init__(why, permanent=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeydFiles:
    """What `delivery.target.KeyFiles` promises; each call asks keyd anew, and has a passphrase of its own."""

    keyd: KeydClient = field(repr=False)
    key: StoredMailboxKey
    certificate: StoredCertificate = field(repr=False)
    custody: str | None = None

    def pkcs12(self, p12_format: P12Format, *, include_chain: bool) -> tuple[bytes, str]:
        key, certificate = self._present(), self.certificate
        with _failing_in_words():
            return self.keyd.export_pkcs12(
                key.id,
                key.principal,
                key.sealed_key,
                certificate.chain_pem,
                p12_format,
                certificate.address,
                include_chain=include_chain,
            )

    def encrypted_pem(self) -> tuple[bytes, str]:
        key = self._present()
        with _failing_in_words():
            return self.keyd.export_pem(key.id, key.principal, key.sealed_key)

    def write_clear_pem(self, file: int) -> None:
        key = self._present(to_signing_milter=True)
        with _failing_in_words():
            self.keyd.write_clear_pem(key.id, key.principal, key.sealed_key, file)

    def _present(self, *, to_signing_milter: bool = False) -> StoredMailboxKey:
        if self.key.why_not_here is not None:
            raise KeyNotHere(self.key.why_not_here)
        withheld = why_withheld(self.custody, self.key, to_signing_milter=to_signing_milter)
        if withheld is not None:
            raise DeliveryFailed(withheld, permanent=True)
        return self.key


@contextmanager
def _failing_in_words() -> Iterator[None]:
    try:
        yield
    except KeydUnavailable as error:
        raise DeliveryFailed(str(error)) from None
    except KeydRefused as refused:
        raise DeliveryFailed(f"keyd refused: {refused.reason}", permanent=True) from None
    except OSError as error:
        raise DeliveryFailed(f"keyd cannot write the key: {error.strerror}") from None
