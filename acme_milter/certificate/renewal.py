# SPDX-License-Identifier: GPL-3.0-or-later
"""What identifies a certificate to a CA's renewal information (ARI, RFC 9773)."""

import base64

from cryptography import x509


class NoRenewalIdentifier(ValueError):
    """The certificate has no authority key identifier, so RFC 9773 has no name for it."""

    safe_text = True


def renewal_info_id(leaf_der: bytes) -> str:
    """base64url(AKI keyIdentifier) "." base64url(serial number), both without padding (RFC 9773 §4.1).

    The serial number is taken as the content octets of its DER INTEGER: a leading 00 stays. Raises
    NoRenewalIdentifier; ValueError when `leaf_der` is no certificate.
    """
    certificate = x509.load_der_x509_certificate(leaf_der)
    try:
        extension = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except x509.ExtensionNotFound:
        raise NoRenewalIdentifier("the certificate has no authority key identifier") from None
    key_identifier = extension.value.key_identifier
    if not key_identifier:
        raise NoRenewalIdentifier("the authority key identifier has no key identifier")
    serial = certificate.serial_number
    serial_octets = serial.to_bytes(serial.bit_length() // 8 + 1, "big", signed=True)
    return f"{_base64url(key_identifier)}.{_base64url(serial_octets)}"


def _base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")
