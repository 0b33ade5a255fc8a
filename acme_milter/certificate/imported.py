# SPDX-License-Identifier: GPL-3.0-or-later
"""A PKCS#12 file from elsewhere: its key, its certificate, and whether both are this mailbox's (RFC 7292)."""

from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization.pkcs12 import load_key_and_certificates

from acme_milter.certificate.chain import extension_of
from acme_milter.certificate.csr import MailboxPrivateKey, spki_of
from acme_milter.certificate.pem_chain import MAX_CERTIFICATES, write_pem_chain
from acme_milter.certificate.refusal import CertificateFault, CertificateRefused
from acme_milter.certificate.subject_name import names_address


class Pkcs12Unreadable(Exception):
    """The file does not open: it is no PKCS#12, or the passphrase is another one. Nothing tells which."""

    safe_text = True


def read_pkcs12(file: bytes, passphrase: str, address: str) -> tuple[MailboxPrivateKey, bytes]:
    """(private key, chain as PEM with its certificate first) of a file that is for `address`.

    Raises Pkcs12Unreadable; CertificateRefused when the certificate is another key's, does not name the address or is
    a CA's. Dates are the caller's to judge: an old key may be wanted for old mail.
    """
    try:
        private_key, leaf, others = load_key_and_certificates(file, passphrase.encode("utf-8"))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The cause may quote the file.
        raise Pkcs12Unreadable("it is no PKCS#12 file, or the passphrase is wrong") from None
    if private_key is None or leaf is None:
        raise Pkcs12Unreadable("there is no private key with a certificate in it")
    if not isinstance(private_key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise Pkcs12Unreadable("its key is neither RSA nor on an elliptic curve")
    try:
        _check(leaf, private_key, address)
        return private_key, write_pem_chain(_ordered(leaf, others))
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise CertificateRefused(CertificateFault.UNREADABLE, "the certificate cannot be parsed") from None


def _check(leaf: x509.Certificate, private_key: MailboxPrivateKey, address: str) -> None:
    if spki_of(leaf.public_key()) != spki_of(private_key.public_key()):
        raise CertificateRefused(CertificateFault.WRONG_KEY, "the certificate is another key's")
    names = extension_of(leaf, x509.SubjectAlternativeName) or ()
    if not any(names_address(name, address) for name in names):
        raise CertificateRefused(CertificateFault.WRONG_NAME, "the mailbox is not in the certificate's SAN")
    constraints = extension_of(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise CertificateRefused(CertificateFault.IS_A_CA, "the certificate is a CA's")


def _ordered(leaf: x509.Certificate, others: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """The leaf and whatever leads on from it; the file has them in no order."""
    chain, rest = [leaf], list(others)
    while len(chain) < MAX_CERTIFICATES:
        issuer = next((one for one in rest if one.subject == chain[-1].issuer), None)
        if issuer is None:
            break
        rest.remove(issuer)
        chain.append(issuer)
    return chain
