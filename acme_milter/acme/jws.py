# SPDX-License-Identifier: GPL-3.0-or-later
"""Signed requests: Flattened JSON JWS (RFC 7515 §7.2.2) as RFC 8555 §6.2 restricts it."""

import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from josepy.b64 import b64decode, b64encode

# RFC 7518 §3.1, RFC 8037 §3.1: the algorithm follows from the key, so it cannot be chosen wrongly.
_ALGORITHMS = {"P-256": ("ES256", 64), "P-384": ("ES384", 96), "Ed25519": ("EdDSA", 64)}
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+={0,2}", re.ASCII)


class Signer(Protocol):
    """A key we may use but never see: account keys are P-256 and sign ES256.

    jwk: the public key (RFC 7517), required members only. thumbprint: RFC 7638, SHA-256, base64url.
    """

    @property
    def jwk(self) -> Mapping[str, str]:
        """The public JWK."""

    @property
    def thumbprint(self) -> str:
        """The JWK thumbprint, as key authorizations need it (RFC 8555 §8.1)."""

    def sign(self, signing_input: bytes) -> bytes:
        """Sign `BASE64URL(header) "." BASE64URL(payload)`; ECDSA as r||s (RFC 7518 §3.4), 64 bytes for ES256."""


@dataclass(frozen=True, slots=True)
class Eab:
    """External account binding credentials (RFC 8555 §7.3.4): the CA's key id and its MAC key as bytes."""

    kid: str
    hmac_key: bytes = field(repr=False)

    @classmethod
    def from_text(cls, kid: str, encoded: str) -> "Eab":
        """Decode a MAC key as CAs hand it out: base64url, with or without padding. Raises ValueError."""
        encoded = encoded.strip()
        if not kid or not _BASE64URL.fullmatch(encoded) or len(encoded.rstrip("=")) % 4 == 1:
            # Nothing of the key goes into the text.
            raise ValueError("EAB needs a key id and a base64url encoded MAC key")
        return cls(kid, b64decode(encoded.rstrip("=")))


def algorithm_of(jwk: Mapping[str, str]) -> str:
    """The JWS algorithm a public JWK signs with. Raises ValueError for a key ACME cannot use."""
    return "RS256" if jwk.get("kty") == "RSA" else _curve(jwk)[0]


def _curve(jwk: Mapping[str, str]) -> tuple[str, int]:
    try:
        return _ALGORITHMS[jwk.get("crv", "")]
    except KeyError:
        raise ValueError("no JWS algorithm for this kind of key") from None


def public_jwk(signer: Signer) -> dict[str, str]:
    """The signer's JWK as sent. Raises ValueError when it holds a private member (RFC 7517 §9.2)."""
    jwk = dict(signer.jwk)
    if _PRIVATE_MEMBERS & jwk.keys():
        raise ValueError("a JWK with private members must not leave this machine")
    return jwk


def encode_json(value: object) -> bytes:
    """Compact ASCII JSON."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def flattened(signer: Signer, protected: Mapping[str, object], payload: bytes) -> dict[str, str]:
    """Sign: one signature, no unprotected header (RFC 8555 §6.2). `alg` is put first in the protected header."""
    header = encode_json({"alg": algorithm_of(signer.jwk), **protected})
    signing_input = b64encode(header) + b"." + b64encode(payload)
    signature = signer.sign(signing_input)
    if signer.jwk.get("kty") != "RSA" and len(signature) != _curve(signer.jwk)[1]:
        raise ValueError("the signer returned a signature of the wrong length (DER instead of r||s?)")
    return _members(header, payload, signature)


def request_body(signer: Signer, *, url: str, nonce: str, kid: str | None, payload: bytes) -> bytes:
    """The body of a POST. With kid=None the key itself is sent (`jwk`): newAccount and revokeCert only (§6.2)."""
    key: dict[str, object] = {"jwk": public_jwk(signer)} if kid is None else {"kid": kid}
    return encode_json(flattened(signer, {"nonce": nonce, "url": url, **key}, payload))


def key_change(new_signer: Signer, *, url: str, account_url: str, old_jwk: Mapping[str, str]) -> dict[str, str]:
    """The inner JWS of a key change (RFC 8555 §7.3.5): by the new key, `jwk`, the outer `url`, no nonce."""
    payload = encode_json({"account": account_url, "oldKey": dict(old_jwk)})
    return flattened(new_signer, {"jwk": public_jwk(new_signer), "url": url}, payload)


def external_account_binding(eab: Eab, *, url: str, jwk: Mapping[str, str]) -> dict[str, str]:
    """The binding JWS (RFC 8555 §7.3.4): MAC algorithm, the CA's kid, the outer `url`, no nonce; payload = our jwk."""
    header = encode_json({"alg": "HS256", "kid": eab.kid, "url": url})
    payload = encode_json(dict(jwk))
    mac = hmac.digest(eab.hmac_key, b64encode(header) + b"." + b64encode(payload), "sha256")
    return _members(header, payload, mac)


def _members(header: bytes, payload: bytes, signature: bytes) -> dict[str, str]:
    parts = {"protected": header, "payload": payload, "signature": signature}
    return {name: b64encode(part).decode("ascii") for name, part in parts.items()}
