# SPDX-License-Identifier: GPL-3.0-or-later
"""Does a CSR ask for exactly what the order allows? (RFC 8555 §7.4, RFC 8823 §3.3, S/MIME BR §6.1.5 and §7.1.2.3)"""

from collections.abc import Collection
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID, ObjectIdentifier

from acme_milter.testca.addresses import Address
from acme_milter.testca.problem import ProblemError

SMTP_UTF8_MAILBOX = ObjectIdentifier("1.3.6.1.5.5.7.8.9")
MailboxKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_KNOWN_EXTENSIONS = {
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER,
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the certificate will say: key and purposes."""

    key: MailboxKey = field(repr=False)
    signing: bool
    encryption: bool
    non_repudiation: bool


def alternative_name(address: Address) -> x509.GeneralName:
    """Return the SAN entry of an address: rfc822Name, or SmtpUTF8Mailbox when it is not ASCII (RFC 9598 §3)."""
    text = str(address)
    if text.isascii():
        return x509.RFC822Name(text)
    data = text.encode("utf-8")
    length = bytes([len(data)]) if len(data) < 128 else bytes([0x81, len(data)])
    return x509.OtherName(SMTP_UTF8_MAILBOX, b"\x0c" + length + data)


def check_csr(der: bytes, addresses: Collection[Address]) -> Wanted:
    """Return what a DER CSR asks for; ProblemError `badCSR` when it is not exactly the order's identifiers."""
    try:
        csr = x509.load_der_x509_csr(der)
        extensions = csr.extensions
        signed = csr.is_signature_valid
        key = csr.public_key()
    except (ValueError, x509.DuplicateExtension, UnsupportedAlgorithm, InvalidSignature) as error:
        raise _bad("the CSR does not parse") from error
    if not signed:
        raise _bad("the CSR's signature does not verify")
    mailbox_key = _check_key(key)
    for extension in extensions:
        if extension.oid not in _KNOWN_EXTENSIONS:
            raise _bad(f"extension {extension.oid.dotted_string} is not issued")
        if isinstance(extension.value, x509.BasicConstraints) and extension.value.ca:
            raise _bad("no CA certificates here")
        if isinstance(extension.value, x509.ExtendedKeyUsage) and list(extension.value) != [
            ExtendedKeyUsageOID.EMAIL_PROTECTION
        ]:
            raise _bad("extended key usage may only be emailProtection")
    _check_names(csr, extensions, addresses)
    return _purposes(extensions, mailbox_key)


def _bad(detail: str) -> ProblemError:
    return ProblemError("badCSR", detail)


def _check_key(key: object) -> MailboxKey:
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < 2048 or key.key_size % 8 or key.public_numbers().e < 65537:
            raise _bad("RSA keys have at least 2048 bits, a multiple of 8, and exponent 65537 (S/MIME BR §6.1.5)")
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
        return key
    raise _bad("the key is neither RSA nor P-256, P-384, P-521")


def _check_names(
    csr: x509.CertificateSigningRequest, extensions: x509.Extensions, addresses: Collection[Address]
) -> None:
    """The address is in the SAN of extensionRequest (RFC 8823 §3 step 8), and nothing else is asked for."""
    try:
        asked = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound as error:
        raise _bad("no subjectAltName in the extensionRequest attribute") from error
    allowed = [alternative_name(address) for address in addresses]
    if len(asked) != len(allowed) or any(name not in asked for name in allowed):
        raise _bad("subjectAltName is not exactly the order's identifiers")
    texts = {str(address) for address in addresses}
    for attribute in csr.subject:
        if attribute.oid not in (NameOID.COMMON_NAME, NameOID.EMAIL_ADDRESS) or attribute.value not in texts:
            raise _bad("the subject may only name the mailbox (S/MIME BR §7.1.4)")


def _purposes(extensions: x509.Extensions, key: MailboxKey) -> Wanted:
    """RFC 8823 §3.3: sign-only, encrypt-only, or both; without a key usage extension both."""
    try:
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return Wanted(key, signing=True, encryption=True, non_repudiation=False)
    if usage.data_encipherment or usage.key_cert_sign or usage.crl_sign:
        raise _bad("key usage holds a bit that is neither for signing nor for encryption")
    if usage.key_agreement and (usage.encipher_only or usage.decipher_only):
        raise _bad("encipherOnly and decipherOnly are not issued")
    if isinstance(key, rsa.RSAPublicKey) and usage.key_agreement:
        raise _bad("an RSA key cannot do keyAgreement (S/MIME BR §7.1.2.3)")
    if isinstance(key, ec.EllipticCurvePublicKey) and usage.key_encipherment:
        raise _bad("an EC key cannot do keyEncipherment (S/MIME BR §7.1.2.3)")
    signing = usage.digital_signature or usage.content_commitment
    encryption = usage.key_encipherment or usage.key_agreement
    if not signing and not encryption:
        raise _bad("key usage is empty")
    return Wanted(key, signing, encryption, usage.content_commitment)
