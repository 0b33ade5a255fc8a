# SPDX-License-Identifier: GPL-3.0-or-later
"""What names a certificate to a CA's renewal information (RFC 9773 §4.1)."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from acme_milter.certificate.renewal import NoRenewalIdentifier, renewal_info_id


def _certificate(serial: int, *extensions: x509.ExtensionType) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Test")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), serial, now, now + timedelta(days=1))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def _identifier(key_identifier: bytes | None) -> x509.AuthorityKeyIdentifier:
    if key_identifier is not None:
        return x509.AuthorityKeyIdentifier(key_identifier, None, None)
    name = x509.DirectoryName(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Test")]))
    return x509.AuthorityKeyIdentifier(None, [name], 5)


def test_the_rfcs_own_example_keeps_the_serials_leading_zero() -> None:
    key_identifier = bytes.fromhex("69885b6b87464041e1b37b847ba0ae2cde01c8d4")
    der = _certificate(0x87654321, _identifier(key_identifier))
    assert renewal_info_id(der) == "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"


@pytest.mark.parametrize(
    ("serial", "expected"), [(1, "AQ"), (0x7F, "fw"), (0x80, "AIA"), (0x7FFF, "f_8"), (0x8000, "AIAA"), (256, "AQA")]
)
def test_the_serial_is_the_content_of_its_der_integer(serial: int, expected: str) -> None:
    assert renewal_info_id(_certificate(serial, _identifier(b"\x01"))) == f"AQ.{expected}"


@pytest.mark.parametrize("extensions", [(), (_identifier(None),)])
def test_a_certificate_without_a_key_identifier_has_no_name(extensions: tuple[x509.ExtensionType, ...]) -> None:
    with pytest.raises(NoRenewalIdentifier):
        renewal_info_id(_certificate(1, *extensions))


def test_what_is_no_certificate_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="pars"):
        renewal_info_id(b"no certificate")
