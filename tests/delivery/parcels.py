# SPDX-License-Identifier: GPL-3.0-or-later
"""Parcels whose keys a real keyd has, behind its socket, and openssl to open what becomes of them."""

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from acme_milter.certificate.pkcs12 import P12Format
from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.delivery.target import Gone, Parcel
from acme_milter.ipc.server import FrameServer
from acme_milter.keys.client import KeydClient
from acme_milter.keys.keyd import Keyd
from acme_milter.keys.pool import KeyPool
from acme_milter.keys.wrapping_key import WrappingKey
from tests.certificate.small_pki import NOW, Pki, pem

ALICE = "alice@example.org"


@dataclass(frozen=True)
class KeydFiles:
    """KeyFiles as the worker has them: each call goes to keyd with the sealed key."""

    keyd: KeydClient
    key_id: str
    sealed: bytes
    chain_pem: bytes

    def pkcs12(self, p12_format: P12Format, *, include_chain: bool) -> tuple[bytes, str]:
        return self.keyd.export_pkcs12(
            self.key_id, ALICE, self.sealed, self.chain_pem, p12_format, "Alice", include_chain=include_chain
        )

    def encrypted_pem(self) -> tuple[bytes, str]:
        return self.keyd.export_pem(self.key_id, ALICE, self.sealed)

    def write_clear_pem(self, file: int) -> None:
        self.keyd.write_clear_pem(self.key_id, ALICE, self.sealed, file)


class Desk:
    """Issues certificates for keys that keyd makes."""

    def __init__(self, keyd: KeydClient, directory: Path) -> None:
        self._keyd = keyd
        self._pki = Pki()
        self._made = 0
        self.roots = directory / "roots.pem"
        self.roots.write_bytes(pem(self._pki.root.certificate))

    def parcel(
        self,
        address: str = ALICE,
        *,
        algorithm: str = "p256",
        usage: KeyUsageKind = KeyUsageKind.DUAL,
        with_chain: bool = True,
    ) -> Parcel:
        self._made += 1
        key_id = f"k{self._made}"
        key = self._keyd.new_mailbox_key(key_id, ALICE, algorithm, [ALICE])
        public_key = x509.load_der_x509_csr(key.csr).public_key()
        bits = ("digital_signature", "key_encipherment" if algorithm.startswith("rsa") else "key_agreement")
        san = x509.SubjectAlternativeName([x509.RFC822Name(address if address.isascii() else ALICE)])
        draft = self._pki.leaf_draft(self._pki.key, *bits).changed(public_key=public_key, serial=1000 + self._made)
        leaf = draft.with_extension(san, critical=True).issued_by(self._pki.middle)
        chain_pem = pem(leaf, self._pki.middle.certificate) if with_chain else pem(leaf)
        return Parcel(
            certificate_id=f"c{self._made}",
            address=address,
            person_name=None,
            serial=f"{leaf.serial_number:x}",
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
            usage=usage,
            chain_pem=chain_pem,
            key=KeydFiles(self._keyd, key_id, key.sealed, chain_pem),
        )


@contextmanager
def a_desk() -> Iterator[Desk]:
    keyd = Keyd(WrappingKey(b"0123456789abcdefghijklmnopqrstuv"), KeyPool({}))
    with tempfile.TemporaryDirectory(prefix="desk-") as name:
        path = Path(name) / "keyd.sock"
        with FrameServer(path, 0o600, keyd.handle, threads=4, handle_file=keyd.handle), KeydClient(path, 20) as client:
            yield Desk(client, Path(name))


def gone_of(parcel: Parcel, **fields: Any) -> Gone:
    """What was brought there, to be taken back."""
    given = {name: getattr(parcel, name) for name in ("certificate_id", "address", "serial", "usage", "chain_pem")}
    return Gone(**given | {"why": "the mailbox has left"} | fields)


def openssl(*arguments: str | Path, given: bytes = b"") -> bytes:
    """What openssl prints; it has to succeed."""
    done = subprocess.run(["openssl", *map(str, arguments)], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def sign_and_verify(signer: Path, chain: Path, key: Path, roots: Path, *unlock: str) -> None:
    """A mail signed with these files verifies up to `roots`."""
    certificates = ("-signer", signer, "-certfile", chain, "-inkey", key)
    signed = openssl("smime", "-sign", *certificates, *unlock, given=b"hello")
    # The test authority's certificates have days of their own.
    verify = ("smime", "-verify", "-CAfile", roots, "-purpose", "smimesign", "-attime", str(int(NOW.timestamp())))
    assert openssl(*verify, given=signed).strip() == b"hello"


def encrypt_and_decrypt(certificate: Path, key: Path, *unlock: str) -> None:
    """A mail encrypted to the certificate is decrypted with the key. PKCS#7 takes RSA keys only."""
    sent = openssl("smime", "-encrypt", "-aes256", certificate, given=b"secret")
    assert b"secret" not in sent
    received = openssl("smime", "-decrypt", "-recip", certificate, "-inkey", key, *unlock, given=sent)
    assert received.strip() == b"secret"


def names_in(directory: Path) -> Sequence[str]:
    """What lies there, hidden files too."""
    return sorted(entry.name for entry in directory.iterdir())
