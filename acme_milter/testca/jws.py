# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON Web Signatures as RFC 8555 §6.2 narrows them: flattened, one signature, no unprotected header."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from acme_milter.testca.encoding import from_base64url, to_base64url, to_json
from acme_milter.testca.problem import ProblemError

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

_CURVES: dict[str, tuple[str, ec.EllipticCurve, hashes.HashAlgorithm]] = {
    "ES256": ("P-256", ec.SECP256R1(), hashes.SHA256()),
    "ES384": ("P-384", ec.SECP384R1(), hashes.SHA384()),
}
ALGORITHMS = ("ES256", "ES384", "RS256", "EdDSA")
_THUMBPRINT_MEMBERS = {"EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n"), "OKP": ("crv", "kty", "x")}


@dataclass(frozen=True, slots=True)
class Jws:
    """A parsed, not yet verified JWS. `payload` is empty for POST-as-GET (RFC 8555 §6.3)."""

    header: Mapping[str, object]
    payload: bytes = field(repr=False)
    signing_input: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def parse_jws(body: bytes | Mapping[str, object]) -> Jws:
    """Parse a flattened JWS; ProblemError `malformed` for anything RFC 8555 §6.2 forbids."""
    envelope = body if isinstance(body, Mapping) else _json_object(body, "the request body")
    if set(envelope) != {"protected", "payload", "signature"}:
        raise ProblemError("malformed", "a JWS has exactly the members protected, payload, signature (RFC 8555 §6.2)")
    try:
        protected = from_base64url(envelope["protected"])
        payload = from_base64url(envelope["payload"])
        signature = from_base64url(envelope["signature"])
    except ValueError as error:
        raise ProblemError("malformed", f"JWS member: {error} (RFC 8555 §6.1)") from error
    header = _json_object(protected, "the protected header")
    for name in ("crit", "b64"):
        if name in header:
            raise ProblemError("malformed", f"the protected header must not hold {name}")
    signing_input = f"{envelope['protected']}.{envelope['payload']}".encode("ascii")
    return Jws(header, payload, signing_input, signature)


def json_payload(jws: Jws) -> dict[str, object]:
    """Return the payload as a JSON object; ProblemError `malformed` when it is none."""
    return _json_object(jws.payload, "the payload")


def _json_object(data: bytes, what: str) -> dict[str, object]:
    try:
        document = json.loads(data)
    except ValueError as error:
        raise ProblemError("malformed", f"{what} is not JSON") from error
    if not isinstance(document, dict):
        raise ProblemError("malformed", f"{what} is not a JSON object")
    return document


def load_jwk(jwk: object) -> PublicKey:
    """Return the public key of a JWK; ProblemError `badPublicKey` or `malformed`."""
    if not isinstance(jwk, dict):
        raise ProblemError("malformed", "jwk is not a JSON object")
    if "d" in jwk:
        raise ProblemError("badPublicKey", "jwk holds a private key")
    try:
        return _load_public(jwk)
    except (KeyError, ValueError) as error:
        raise ProblemError("badPublicKey", "jwk is not a usable public key") from error


def _load_public(jwk: Mapping[str, object]) -> PublicKey:
    if jwk["kty"] == "EC":
        for name, curve, _ in _CURVES.values():
            if jwk["crv"] == name:
                x, y = from_base64url(jwk["x"]), from_base64url(jwk["y"])
                size = (curve.key_size + 7) // 8
                if len(x) != size or len(y) != size:
                    raise ValueError("coordinates of the wrong length (RFC 7518 §6.2.1.2)")
                return ec.EllipticCurvePublicNumbers(
                    int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve
                ).public_key()
        raise ValueError("curve not supported")
    if jwk["kty"] == "RSA":
        numbers = rsa.RSAPublicNumbers(
            int.from_bytes(from_base64url(jwk["e"]), "big"), int.from_bytes(from_base64url(jwk["n"]), "big")
        )
        key = numbers.public_key()
        if key.key_size < 2048:
            raise ValueError("RSA below 2048 bits")
        return key
    if jwk["kty"] == "OKP" and jwk["crv"] == "Ed25519":
        return ed25519.Ed25519PublicKey.from_public_bytes(from_base64url(jwk["x"]))
    raise ValueError("key type not supported")


def verify_jws(jws: Jws, key: PublicKey) -> None:
    """Verify a signature; `badSignatureAlgorithm` (with the ones we take) or `malformed` when it fails."""
    algorithm = jws.header.get("alg")
    try:
        if isinstance(algorithm, str) and algorithm in _CURVES and isinstance(key, ec.EllipticCurvePublicKey):
            _verify_ecdsa(algorithm, jws, key)
        elif algorithm == "RS256" and isinstance(key, rsa.RSAPublicKey):
            key.verify(jws.signature, jws.signing_input, padding.PKCS1v15(), hashes.SHA256())
        elif algorithm == "EdDSA" and isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(jws.signature, jws.signing_input)
        else:
            raise ProblemError(
                "badSignatureAlgorithm",
                "alg is not supported or does not fit the key",
                members={"algorithms": list(ALGORITHMS)},
            )
    except InvalidSignature as error:
        raise ProblemError("malformed", "the JWS signature does not verify") from error


def _verify_ecdsa(algorithm: str, jws: Jws, key: ec.EllipticCurvePublicKey) -> None:
    name, curve, digest = _CURVES[algorithm]
    size = (curve.key_size + 7) // 8
    if key.curve.name != curve.name or len(jws.signature) != 2 * size:
        raise ProblemError("malformed", f"{algorithm} needs a {name} key and a signature of {2 * size} bytes")
    r, s = int.from_bytes(jws.signature[:size], "big"), int.from_bytes(jws.signature[size:], "big")
    key.verify(encode_dss_signature(r, s), jws.signing_input, ec.ECDSA(digest))


def verify_mac(jws: Jws, secret: bytes) -> bool:
    """Tell whether an HS256 signature is right (external account binding, RFC 8555 §7.3.4)."""
    return hmac.compare_digest(hmac.digest(secret, jws.signing_input, "sha256"), jws.signature)


def jwk_thumbprint(jwk: Mapping[str, object]) -> str:
    """Return the RFC 7638 SHA-256 thumbprint of a JWK, base64url without padding."""
    members = _THUMBPRINT_MEMBERS[str(jwk["kty"])]
    return to_base64url(hashlib.sha256(to_json({name: jwk[name] for name in members})).digest())
