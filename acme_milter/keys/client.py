# SPDX-License-Identifier: GPL-3.0-or-later
"""How other processes use keys: by asking keyd, with the sealed keys they store."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from acme_milter.certificate.pkcs12 import P12Format
from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.ipc.client import FrameClient, PeerUnavailable
from acme_milter.ipc.frames import FrameError
from acme_milter.keys.refusal import KeydRefused
from acme_milter.keys.request import split_parts
from acme_milter.keys.sealing import KEY_SIZE

_SIGNATURE_SIZE = 64


class KeydUnavailable(PeerUnavailable):
    """keyd is absent, too slow or answers nonsense. Trying again later may help."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new account key: sealed, to be stored before it is used, and its public JWK."""

    sealed: bytes = field(repr=False)
    jwk: dict[str, str]


@dataclass(frozen=True, slots=True)
class NewMailboxKey:
    """A new mailbox key: sealed, to be stored before its CSR is sent; the CSR (DER) and the public key (DER SPKI)."""

    sealed: bytes = field(repr=False)
    csr: bytes = field(repr=False)
    spki: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ImportedKey:
    """A key from elsewhere: sealed, with a CSR (DER) for a successor, its public key and its certificate's chain."""

    algorithm: str
    sealed: bytes = field(repr=False)
    csr: bytes = field(repr=False)
    spki: bytes = field(repr=False)
    chain_pem: bytes = field(repr=False)


class KeydClient:
    """Asks the keyd that listens on `socket`; any number of threads may share it. `timeout` (seconds) is for one
    call.

    Every method raises KeydUnavailable (try later) or KeydRefused (never with these arguments).
    """

    def __init__(self, socket: Path, timeout: float = 30.0) -> None:
        self._frames = FrameClient(socket, timeout)

    def close(self) -> None:
        """Close idle connections."""
        self._frames.close()

    def __enter__(self) -> "KeydClient":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def new_account_key(self, key_id: str, authority: str) -> NewKey:
        """A new ES256 key for an account at `authority`, sealed for exactly these ids."""
        answer, sealed = self._call({"call": "new_account_key", "key_id": key_id, "authority": authority})
        jwk = answer.get("jwk")
        if not isinstance(jwk, dict):
            raise _nonsense()
        return NewKey(sealed, {str(name): str(value) for name, value in jwk.items()})

    def new_mailbox_key(
        self,
        key_id: str,
        principal: str,
        algorithm: str,
        addresses: Sequence[str],
        usage: KeyUsageKind = KeyUsageKind.DUAL,
    ) -> NewMailboxKey:
        """A new key of `algorithm` (KeyAlgorithm) for `principal`, and a request for `addresses`."""
        header = {
            "call": "new_mailbox_key",
            "key_id": key_id,
            "principal": principal,
            "algorithm": algorithm,
            "addresses": list(addresses),
            "usage": usage.value,
        }
        parts = split_parts(*self._call(header))
        if parts is None or len(parts) != 3:
            raise _nonsense()
        return NewMailboxKey(*parts)

    def import_pkcs12(self, key_id: str, principal: str, address: str, file: bytes, passphrase: str) -> ImportedKey:
        """Take in the key and certificate of a PKCS#12 file; refused unless they are each other's and `address`'s."""
        header = {
            "call": "import_mailbox_key",
            "key_id": key_id,
            "principal": principal,
            "address": address,
            "passphrase": passphrase,
        }
        answer, body = self._call(header, file)
        parts, algorithm = split_parts(answer, body), answer.get("algorithm")
        if parts is None or len(parts) != 4 or not isinstance(algorithm, str):
            raise _nonsense()
        return ImportedKey(algorithm, *parts)

    def sign_jws(
        self, key_id: str, authority: str, sealed: bytes, signing_input: bytes, next_sealed: bytes | None = None
    ) -> bytes:
        """r || s, 64 octets, over a JWS signing input (RFC 7515 §5.1) that jws_input.py finds to be ACME. A key change
        (RFC 8555 §7.3.5), and nothing else, needs `next_sealed`: the new key, sealed for the same ids.
        """
        header = {"call": "sign_jws", "key_id": key_id, "authority": authority}
        _, signature = self._call(header, sealed, signing_input, *([] if next_sealed is None else [next_sealed]))
        if len(signature) != _SIGNATURE_SIZE:
            raise _nonsense()
        return signature

    def export_pkcs12(
        self,
        key_id: str,
        principal: str,
        sealed: bytes,
        chain_pem: bytes,
        p12_format: P12Format,
        friendly_name: str,
        *,
        include_chain: bool = True,
    ) -> tuple[bytes, str]:
        """(PKCS#12 file, its passphrase); refused when the chain's first certificate is another key's."""
        header = {
            "call": "export_pkcs12",
            "key_id": key_id,
            "principal": principal,
            "format": p12_format.value,
            "friendly_name": friendly_name,
            "include_chain": include_chain,
        }
        answer, file = self._call(header, sealed, chain_pem)
        return file, _passphrase(answer)

    def export_pem(self, key_id: str, principal: str, sealed: bytes) -> tuple[bytes, str]:
        """(the key as encrypted PKCS#8 PEM, its passphrase)."""
        answer, pem = self._call({"call": "export_pem", "key_id": key_id, "principal": principal}, sealed)
        return pem, _passphrase(answer)

    def write_clear_pem(self, key_id: str, principal: str, sealed: bytes, file: int) -> None:
        """Have keyd write the key as unencrypted PKCS#8 PEM where the position of this open file is.

        Refused for anything but a regular file, opened for writing only, of mode 0640 or less. Raises OSError with what
        keyd met when it wrote; how much is in the file then, or when keyd is unavailable, is unknown.
        """
        header = {"call": "write_clear_pem", "key_id": key_id, "principal": principal}
        answer, _ = self._call(header, sealed, descriptor=file)
        if isinstance(number := answer.get("errno"), int):
            raise OSError(number, os.strerror(number))

    def data_key(self) -> bytes:
        """The 32 octets that seal what the worker stores, always the same under one wrapping key."""
        _, key = self._call({"call": "data_key"})
        if len(key) != KEY_SIZE:
            raise _nonsense()
        return key

    def status(self) -> dict[str, object]:
        """Version, wrapping key id, keys ready in the pool, calls answered since the start."""
        return self._call({"call": "status"})[0]

    def _call(
        self, header: Mapping[str, object], *parts: bytes, descriptor: int | None = None
    ) -> tuple[dict[str, object], bytes]:
        request = {**header, "parts": [len(part) for part in parts]}
        try:
            answer, body = self._frames.call(request, b"".join(parts), descriptor=descriptor)
        except PeerUnavailable as error:
            raise KeydUnavailable(f"keyd: {error}") from None
        except FrameError as error:
            raise KeydRefused(f"malformed request: {error}") from None
        if "refused" in answer:
            raise KeydRefused(str(answer["refused"]))
        if "error" in answer:
            raise KeydUnavailable("keyd: a fault of its own, see its log")
        return answer, body


def _passphrase(answer: Mapping[str, object]) -> str:
    passphrase = answer.get("passphrase")
    if not isinstance(passphrase, str) or not passphrase:
        raise _nonsense()
    return passphrase


def _nonsense() -> KeydUnavailable:
    return KeydUnavailable("keyd: the answer is not of the kind asked for")
