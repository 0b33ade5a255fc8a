# SPDX-License-Identifier: GPL-3.0-or-later
"""The certificate request that finalizes an order (PKCS#10, RFC 2986; RFC 8823 §3 step 9)."""

from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from acme_milter.certificate.subject_name import InvalidAddress, names_exactly, subject_alternative_name
from acme_milter.certificate.usage import KeyUsageKind, usage_in

MailboxPrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def build_csr(
    private_key: MailboxPrivateKey, addresses: Sequence[str], usage: KeyUsageKind = KeyUsageKind.DUAL
) -> bytes:
    """DER of a request for `addresses`, in that order, as the only names: the subject is empty.

    A mailbox-validated certificate gets its subject from the CA, and any further name would have to be proven
    (S/MIME BR §7.1.4). keyUsage is asked for only when the certificate is to sign or to encrypt only: RFC
    8823 §3.3 reads its absence as both. Raises InvalidAddress.
    """
    if not addresses:
        raise InvalidAddress("a request needs an address")
    names = x509.SubjectAlternativeName([subject_alternative_name(address) for address in addresses])
    # RFC 5280 §4.2.1.6 makes the SAN critical where the subject is empty.
    builder = x509.CertificateSigningRequestBuilder(subject_name=x509.Name([]))
    builder = builder.add_extension(names, critical=True)
    if usage is not KeyUsageKind.DUAL:
        builder = builder.add_extension(_key_usage(private_key, usage), critical=True)
    request = builder.sign(private_key, _signature_hash(private_key))
    return request.public_bytes(serialization.Encoding.DER)


def csr_public_key_spki(csr_der: bytes) -> bytes:
    """DER SubjectPublicKeyInfo of a request. Raises ValueError when it is none or its own signature is wrong."""
    request = x509.load_der_x509_csr(csr_der)
    try:
        if not request.is_signature_valid:
            raise ValueError("the request's signature does not fit its key")
        return spki_of(request.public_key())
    except UnsupportedAlgorithm as error:
        raise ValueError("the request's algorithm is unknown") from error


def csr_is_for(csr_der: bytes, *addresses: str) -> bool:
    """Whether a request names these addresses and nothing else, spelled as they are here."""
    names = x509.load_der_x509_csr(csr_der).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names_exactly(names, addresses)


def csr_usage(csr_der: bytes) -> KeyUsageKind | None:
    """What a request wants its key to be for; None: a bit that no mailbox's key has."""
    request = x509.load_der_x509_csr(csr_der)
    try:
        bits = request.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return KeyUsageKind.DUAL
    return usage_in(bits, is_rsa=isinstance(request.public_key(), rsa.RSAPublicKey))


def spki_of(key: CertificatePublicKeyTypes) -> bytes:
    """DER SubjectPublicKeyInfo of a public key."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _key_usage(private_key: MailboxPrivateKey, usage: KeyUsageKind) -> x509.KeyUsage:
    """The bits of a one-purpose key and no other (RFC 8823 §3.3; S/MIME BR §7.1.2.3)."""
    encrypts = usage is KeyUsageKind.ENCRYPT
    is_rsa = isinstance(private_key, rsa.RSAPrivateKey)
    return x509.KeyUsage(
        digital_signature=not encrypts,
        content_commitment=False,
        key_encipherment=encrypts and is_rsa,
        data_encipherment=False,
        key_agreement=encrypts and not is_rsa,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _signature_hash(private_key: MailboxPrivateKey) -> hashes.SHA256 | hashes.SHA384:
    if isinstance(private_key, ec.EllipticCurvePrivateKey) and private_key.curve.key_size > 256:
        return hashes.SHA384()
    return hashes.SHA256()
