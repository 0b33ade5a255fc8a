# SPDX-License-Identifier: GPL-3.0-or-later
"""DKIM signatures for our replies, covering what RFC 8823 §3.2 item 9 demands and common signers leave out.

rsa-sha256 or ed25519-sha256, relaxed/relaxed. The canonical forms are dkimpy's; the signature is `cryptography`'s,
whose RSA is ten times as fast.
"""

import base64
import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from dkim.canonicalization import Relaxed

from acme_milter.protocol.dkim_policy import RECOMMENDED_NAMES, REPLY_NAMES, SignatureAlgorithm
from acme_milter.protocol.headers import Headers, split_message

# Listed once more than they occur, so that nobody can add a second one unseen (RFC 6376 §8.15).
OVERSIGNED_NAMES = ("from", "to", "subject")
SIGNED_NAMES = (*REPLY_NAMES, "auto-submitted", "mime-version", *RECOMMENDED_NAMES, *OVERSIGNED_NAMES)
MINIMUM_RSA_BITS = 1024  # RFC 8301 §3.2: signers must use at least this, and should use 2048
_LINE_OCTETS = 72
_NAME = "DKIM-Signature:"


class UnusableSigningKey(ValueError):
    """The key is no unencrypted PEM of RSA or Ed25519, or is too short; never quotes it."""

    safe_text = True


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A domain's DKIM key: the selector its public half is published under, and the private key."""

    selector: str
    private_key: RSAPrivateKey | Ed25519PrivateKey = field(repr=False)

    @classmethod
    def from_pem(cls, selector: str, pem: bytes) -> "SigningKey":
        """Load an unencrypted PEM (PKCS#8 or PKCS#1); raises UnusableSigningKey."""
        try:
            key = load_pem_private_key(pem, None)
        except (ValueError, TypeError):
            raise UnusableSigningKey("the DKIM key is no unencrypted PEM private key") from None
        if not isinstance(key, RSAPrivateKey | Ed25519PrivateKey):
            raise UnusableSigningKey("the DKIM key is neither RSA nor Ed25519")
        if isinstance(key, RSAPrivateKey) and key.key_size < MINIMUM_RSA_BITS:
            raise UnusableSigningKey(f"the DKIM key has fewer than {MINIMUM_RSA_BITS} bits")
        return cls(selector, key)

    @property
    def algorithm(self) -> SignatureAlgorithm:
        """The value of a=."""
        if isinstance(self.private_key, RSAPrivateKey):
            return SignatureAlgorithm.RSA_SHA256
        return SignatureAlgorithm.ED25519_SHA256

    def sign(self, content: bytes) -> bytes:
        """The signature over `content`: RFC 6376 hashes it for RSA, RFC 8463 §3 signs the hash with Ed25519."""
        if isinstance(self.private_key, RSAPrivateKey):
            return self.private_key.sign(content, PKCS1v15(), SHA256())
        return self.private_key.sign(hashlib.sha256(content).digest())


class ReplySigner:
    """Signs replies with one key, for any domain that publishes its public half under `selector`.

    `key_file` holds an unencrypted PEM. Raises UnusableSigningKey when it cannot be read or used.
    """

    def __init__(self, selector: str, key_file: Path) -> None:
        try:
            pem = key_file.read_bytes()
        except OSError as problem:
            raise UnusableSigningKey(f"the DKIM key file cannot be read: {problem.strerror}") from None
        self._key = SigningKey.from_pem(selector, pem)

    def sign(self, raw: bytes, domain: str, *, now: datetime) -> bytes:
        """`raw` (CRLF throughout) with one DKIM-Signature of d=`domain` (lower-case A-labels) on top.

        `now` is the t= to state.
        """
        key = self._key
        headers, body = split_message(raw)
        canonical_body = Relaxed.canonicalize_body(body)
        body_hash = base64.b64encode(hashlib.sha256(canonical_body).digest()).decode("ascii")
        stamp = int(now.timestamp())
        value = _fold(
            [
                "v=1;",
                f"a={key.algorithm};",
                "c=relaxed/relaxed;",
                f"d={domain};",
                f"s={key.selector};",
                f"t={stamp};",
                "h=" + ":\0".join(SIGNED_NAMES) + ";",
                f"bh={body_hash};",
                "b=",
            ]
        )
        signed = _hashed_content(headers, value)
        signature = base64.b64encode(key.sign(signed)).decode("ascii")
        broken = "".join(f"\r\n\t{signature[start : start + 70]}" for start in range(0, len(signature), 70))
        return f"{_NAME}{value}{broken}\r\n".encode("ascii") + raw


def _hashed_content(headers: Headers, signature_value: str) -> bytes:
    """What is signed: the fields of h=, each name's instances from the bottom up, then the signature without b=."""
    taken: dict[str, int] = {}
    fields: list[tuple[bytes, bytes]] = []
    for name in SIGNED_NAMES:
        instances = headers.all(name.encode("ascii"))
        number = taken[name] = taken.get(name, 0) + 1
        if number <= len(instances):  # an absent field hashes as nothing (RFC 6376 §5.4)
            fields.append((instances[-number].name, instances[-number].value))
    fields.append((b"dkim-signature", signature_value.encode("ascii")))
    lines = [name + b":" + value for name, value in Relaxed.canonicalize_headers(fields)]
    return b"".join(lines).removesuffix(b"\r\n")


def _fold(tags: list[str]) -> str:
    """Join tags with blanks, folding lines near 72 octets; NUL marks where h= may be folded besides."""
    lines = [_NAME]
    for piece in " ".join(tags).replace("\0", "\0 ").split(" "):
        joint = "" if lines[-1].endswith("\0") else " "
        if len(lines[-1]) + len(piece) >= _LINE_OCTETS:
            lines.append(piece)
        else:
            lines[-1] += joint + piece
    return "\r\n\t".join(lines).replace("\0", "").removeprefix(_NAME)
