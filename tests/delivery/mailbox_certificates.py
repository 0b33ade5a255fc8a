# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates of mailboxes, of any age and for any use, and parcels of them for targets that need no key."""

from collections.abc import Callable
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from acme_milter.certificate.pkcs12 import P12Format
from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.clock import Clock
from acme_milter.delivery.target import Parcel

NOW = datetime.fromisoformat("2026-06-01T12:00:00Z")
DAY = timedelta(days=1)

_KEY = ec.generate_private_key(ec.SECP256R1())
_USAGES = {
    KeyUsageKind.DUAL: ("digital_signature", "key_agreement"),
    KeyUsageKind.SIGN: ("digital_signature",),
    KeyUsageKind.ENCRYPT: ("key_agreement",),
}
_BITS = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
_MORE_BITS = ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")


class AtNow(Clock):
    """The time that these certificates are made for."""

    def now(self) -> datetime:
        return NOW


class NoKey:
    """The key of a parcel whose target must not ask for one."""

    def pkcs12(self, p12_format: P12Format, *, include_chain: bool) -> tuple[bytes, str]:
        raise AssertionError("a directory has no use for a key")

    def encrypted_pem(self) -> tuple[bytes, str]:
        raise AssertionError("a directory has no use for a key")

    def write_clear_pem(self, file: int) -> None:
        raise AssertionError("a directory has no use for a key")


def a_certificate(
    address: str, *, age: int = 1, lasts: int = 365, usage: KeyUsageKind = KeyUsageKind.DUAL
) -> x509.Certificate:
    """One that began `age` days ago, for `lasts` days, with a key of its own."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "parcels CA")])
    begin = NOW - age * DAY
    key_usage = x509.KeyUsage(**{bit: bit in _USAGES[usage] for bit in _BITS + _MORE_BITS})
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(name)
    builder = builder.public_key(ec.generate_private_key(ec.SECP256R1()).public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(begin).not_valid_after(begin + lasts * DAY).add_extension(key_usage, True)
    address_name = x509.SubjectAlternativeName([x509.RFC822Name(address)])
    return builder.add_extension(address_name, True).sign(_KEY, hashes.SHA256())


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def parcel_of(
    address: str,
    certificate: x509.Certificate,
    *,
    usage: KeyUsageKind = KeyUsageKind.DUAL,
    beside: tuple[x509.Certificate, ...] = (),
    still_ours: Callable[[], bool] = lambda: True,
) -> Parcel:
    return Parcel(
        certificate_id="c",
        address=address,
        person_name=None,
        serial=format(certificate.serial_number, "x"),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        usage=usage,
        chain_pem=certificate.public_bytes(Encoding.PEM),
        key=NoKey(),
        beside=tuple(other.public_bytes(Encoding.PEM) for other in beside),
        still_ours=still_ours,
    )
