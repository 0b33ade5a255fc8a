# SPDX-License-Identifier: GPL-3.0-or-later
"""A PEM certificate chain as a CA sends it: certificates and nothing else (RFC 8555 §9.1, §11.4)."""

import binascii
import re
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from acme_milter.certificate.refusal import CertificateFault, CertificateRefused

MAX_CHAIN = 128 * 1024
"""The most octets of a chain; a long one with large keys takes a tenth of it."""
MAX_CERTIFICATES = 10

_BEGIN = re.compile(rb"-----BEGIN ([ -~]*?)-----")
_BLOCK = re.compile(
    rb"-----BEGIN CERTIFICATE-----[ \t]*\r?\n([A-Za-z0-9+/=\r\n]+?)\r?\n-----END CERTIFICATE-----[ \t]*(?:\r?\n|\Z)"
)
_BLANK = re.compile(rb"[ \t\r\n]*")


def parse_pem_chain(chain_pem: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates in their order, 1 to MAX_CERTIFICATES of them.

    Nothing but white space may stand between the blocks: what a user's software would make of an extra block
    (RFC 8555 §11.4: a private key) is not ours to find out. Raises CertificateRefused.
    """
    if len(chain_pem) > MAX_CHAIN:
        raise CertificateRefused(CertificateFault.TOO_LARGE, f"more than {MAX_CHAIN} octets")
    if any(label != b"CERTIFICATE" for label in _BEGIN.findall(chain_pem)):
        raise CertificateRefused(CertificateFault.FOREIGN_PEM_BLOCK, "a PEM block is not a CERTIFICATE")
    certificates: list[x509.Certificate] = []
    position = _skip_blank(chain_pem, 0)
    while position < len(chain_pem):
        block = _BLOCK.match(chain_pem, position)
        if block is None:
            raise CertificateRefused(CertificateFault.NOT_A_PEM_CHAIN, "there is more than PEM certificates")
        if len(certificates) == MAX_CERTIFICATES:
            raise CertificateRefused(CertificateFault.TOO_LARGE, f"more than {MAX_CERTIFICATES} certificates")
        certificates.append(_parse_block(block.group(1)))
        position = _skip_blank(chain_pem, block.end())
    if not certificates:
        raise CertificateRefused(CertificateFault.NOT_A_PEM_CHAIN, "there is no certificate")
    return tuple(certificates)


def write_pem_chain(certificates: Sequence[x509.Certificate]) -> bytes:
    """PEM of certificates, one after the other, lines ended by LF."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _skip_blank(text: bytes, position: int) -> int:
    blank = _BLANK.match(text, position)
    assert blank is not None
    return blank.end()


def _parse_block(encoded: bytes) -> x509.Certificate:
    try:
        der = binascii.a2b_base64(re.sub(rb"[\r\n]", b"", encoded), strict_mode=True)
        return x509.load_der_x509_certificate(der)
    except (ValueError, x509.InvalidVersion):
        # The cause quotes what the CA sent.
        raise CertificateRefused(CertificateFault.UNREADABLE, "a certificate cannot be parsed") from None
