# SPDX-License-Identifier: GPL-3.0-or-later
"""CMS SignedData written octet by octet (RFC 5652 §5), so that every fault can be in it, and RFC 7508's attribute."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_SEQUENCE, _SET, _OCTETS, _UTF8, _VISIBLE = 0x30, 0x31, 0x04, 0x0C, 0x1A
_HASHES = {
    "sha256": ("2.16.840.1.101.3.4.2.1", "1.2.840.10045.4.3.2", hashes.SHA256()),
    "sha384": ("2.16.840.1.101.3.4.2.2", "1.2.840.10045.4.3.3", hashes.SHA384()),
    "sha1": ("1.3.14.3.2.26", "1.2.840.10045.4.1", hashes.SHA1()),  # noqa: S303 - a weak signature is what is wanted
}


@dataclass(frozen=True, slots=True)
class SigningPair:
    """A certificate for mail and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)


def write_signed_data(
    content: bytes,
    signers: Sequence[SigningPair],
    others: Sequence[x509.Certificate],
    *,
    at: datetime | None,
    enclosing: bool,
    hash_name: str = "sha256",
    secure_headers: Sequence[tuple[str, str]] = (),
) -> bytes:
    """Return the DER of a ContentInfo whose signatures are over `content`, which it holds when `enclosing`.

    `at` is the signing time; None leaves it out, which RFC 8551 §2.5.1 discourages.
    `secure_headers` are written as the attribute of RFC 7508, all with status duplicated.
    """
    inside = [_tlv(0xA0, _tlv(_OCTETS, content))] if enclosing else []
    certificates = [*(pair.certificate for pair in signers), *others]
    signed = _tlv(
        _SEQUENCE,
        _integer(1),
        _tlv(_SET, _algorithm(_HASHES[hash_name][0])),
        _tlv(_SEQUENCE, _oid("1.2.840.113549.1.7.1"), *inside),
        _tlv(0xA0, *(one.public_bytes(serialization.Encoding.DER) for one in certificates)),
        _tlv(_SET, *(_signer_info(content, pair, at, hash_name, secure_headers) for pair in signers)),
    )
    return _tlv(_SEQUENCE, _oid("1.2.840.113549.1.7.2"), _tlv(0xA0, signed))


def _signer_info(
    content: bytes, pair: SigningPair, at: datetime | None, hash_name: str, secure_headers: Sequence[tuple[str, str]]
) -> bytes:
    digest_oid, signature_oid, algorithm = _HASHES[hash_name]
    attributes = [
        _attribute("1.2.840.113549.1.9.3", _oid("1.2.840.113549.1.7.1")),
        _attribute("1.2.840.113549.1.9.4", _tlv(_OCTETS, hashlib.new(hash_name, content).digest())),
    ]
    if at is not None:
        attributes.append(
            _attribute("1.2.840.113549.1.9.5", _tlv(0x17, f"{at.astimezone(UTC):%y%m%d%H%M%SZ}".encode()))
        )
    if secure_headers:
        attributes.append(_attribute("1.2.840.113549.1.9.16.2.55", _secure_headers(secure_headers)))
    listed = b"".join(sorted(attributes))  # X.690 §11.6
    return _tlv(
        _SEQUENCE,
        _integer(1),
        _tlv(_SEQUENCE, pair.certificate.issuer.public_bytes(), _integer(pair.certificate.serial_number)),
        _algorithm(digest_oid),
        _tlv(0xA0, listed),
        _algorithm(signature_oid),
        _tlv(_OCTETS, pair.key.sign(_tlv(_SET, listed), ec.ECDSA(algorithm))),
    )


def _secure_headers(fields: Sequence[tuple[str, str]]) -> bytes:
    """RFC 7508 §4.1, canonAlgorithm relaxed; the status is left out, for it is the default."""
    listed = (
        _tlv(_SEQUENCE, _tlv(_VISIBLE, name.encode("ascii")), _tlv(_UTF8, " ".join(value.split()).encode("utf-8")))
        for name, value in fields
    )
    return _tlv(_SET, _tlv(0x0A, b"\x01"), _tlv(_SEQUENCE, *listed))


def _attribute(oid: str, value: bytes) -> bytes:
    return _tlv(_SEQUENCE, _oid(oid), _tlv(_SET, value))


def _algorithm(oid: str) -> bytes:
    return _tlv(_SEQUENCE, _oid(oid))


def _integer(number: int) -> bytes:
    return _tlv(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    content = bytearray([40 * first + second])
    for number in rest:
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(0x80 | (number & 0x7F))
        content += bytes(reversed(groups))
    return _tlv(0x06, bytes(content))


def _tlv(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content
