# SPDX-License-Identifier: GPL-3.0-or-later
"""The public part of an account key as a JSON Web Key (RFC 7517, RFC 7518 §6.2.1)."""

import base64

from cryptography.hazmat.primitives.asymmetric import ec

_COORDINATE_SIZE = 32


def public_jwk(public_key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """The members RFC 7638 hashes for the thumbprint, and no other, of a P-256 key."""
    numbers = public_key.public_numbers()
    return {"crv": "P-256", "kty": "EC", "x": _coordinate(numbers.x), "y": _coordinate(numbers.y)}


def _coordinate(value: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes(_COORDINATE_SIZE, "big")).rstrip(b"=").decode("ascii")
