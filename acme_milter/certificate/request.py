# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a certificate request that somebody else has made can be ordered with (RFC 2986, RFC 8823 §3.3)."""

from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from acme_milter.certificate.csr import csr_public_key_spki
from acme_milter.certificate.subject_name import names_address
from acme_milter.certificate.usage import KeyUsageKind, usage_in

_CURVES = {"secp256r1": "p256", "secp384r1": "p384"}
_LEAST_EXPONENT = 65537
_EXTENSIONS = (
    x509.SubjectAlternativeName,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.BasicConstraints,
    x509.SubjectKeyIdentifier,
)


class RequestRefused(Exception):
    """It cannot be ordered with; the text is for whoever brought it, and quotes nothing of it."""

    safe_text = True


@dataclass(frozen=True, slots=True)
class BroughtRequest:
    """A request that fits; ``spki`` is its public key in DER, ``algorithm`` as in the configuration (rsa3072, p256)."""

    der: bytes = field(repr=False)
    spki: bytes = field(repr=False)
    algorithm: str
    usage: KeyUsageKind


def read_request(octets: bytes, address: str) -> BroughtRequest:
    """DER or PEM. Raises RequestRefused unless its own signature holds, its key is of a kind and strength that
    S/MIME BR §6.1.5 allows, and it names ``address`` and nothing else.
    """
    try:
        is_pem = b"-----BEGIN" in octets
        csr = x509.load_pem_x509_csr(octets) if is_pem else x509.load_der_x509_csr(octets)
        der = csr.public_bytes(serialization.Encoding.DER)
        extensions, subject, key = csr.extensions, csr.subject, csr.public_key()
        spki = csr_public_key_spki(der)
        digest = csr.signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise RequestRefused("is no certificate request (PKCS#10), or its signature is not its key's") from None
    if isinstance(digest, hashes.MD5 | hashes.SHA1):
        raise RequestRefused(f"is signed with {digest.name}; make it with -sha256")
    algorithm = _algorithm(key)
    _check_names(extensions, subject, address)
    return BroughtRequest(der, spki, algorithm, _usage(extensions, is_rsa=isinstance(key, rsa.RSAPublicKey)))


def _algorithm(key: object) -> str:
    if isinstance(key, rsa.RSAPublicKey):
        if not 2048 <= key.key_size <= 4096 or key.key_size % 8 or key.public_numbers().e < _LEAST_EXPONENT:
            raise RequestRefused(
                f"its RSA key has {key.key_size} bits; wanted are 2048 to 4096, and an exponent of 65537 or more"
            )
        return f"rsa{key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    raise RequestRefused("its key is neither RSA nor P-256 or P-384, which is what mail software reads")


def _check_names(extensions: x509.Extensions, subject: x509.Name, address: str) -> None:
    """RFC 8823 §3 step 8; what else the subject said, a mailbox-validated certificate would not (S/MIME BR §7.1.4)."""
    if any(not isinstance(extension.value, _EXTENSIONS) for extension in extensions):
        raise RequestRefused(
            "asks for an extension that no mailbox gets; wanted are subjectAltName and perhaps keyUsage"
        )
    found = [extension.value for extension in extensions if isinstance(extension.value, x509.SubjectAlternativeName)]
    if not found or [names_address(name, address) for name in found[0]] != [True]:
        raise RequestRefused(f"its subjectAltName must be {address} and nothing else, spelled like this")
    for part in subject:
        if part.oid not in {NameOID.COMMON_NAME, NameOID.EMAIL_ADDRESS} or part.value != address:
            raise RequestRefused(f"its subject must be empty, or CN={address}")
    for extension in extensions:
        if isinstance(extension.value, x509.BasicConstraints) and extension.value.ca:
            raise RequestRefused("asks for a CA certificate")
        if isinstance(extension.value, x509.ExtendedKeyUsage) and list(extension.value) != [
            ExtendedKeyUsageOID.EMAIL_PROTECTION
        ]:
            raise RequestRefused("its extendedKeyUsage may only be emailProtection")


def _usage(extensions: x509.Extensions, *, is_rsa: bool) -> KeyUsageKind:
    bits = next((extension.value for extension in extensions if isinstance(extension.value, x509.KeyUsage)), None)
    usage = usage_in(bits, is_rsa=is_rsa)
    if usage is None:
        encrypts = "keyEncipherment" if is_rsa else "keyAgreement"
        raise RequestRefused(f"its keyUsage may hold digitalSignature, nonRepudiation and {encrypts}, and nothing else")
    return usage
