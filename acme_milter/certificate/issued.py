# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the chain that a CA sent is the certificate that was ordered (RFC 8555 §7.4.2, §11.4; RFC 8550 §4.4)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from acme_milter.certificate.chain import check_chain, extension_of, load_trust_roots
from acme_milter.certificate.csr import spki_of
from acme_milter.certificate.pem_chain import parse_pem_chain, write_pem_chain
from acme_milter.certificate.refusal import CertificateFault, CertificateRefused
from acme_milter.certificate.subject_name import names_address, names_exactly, subject_alternative_name
from acme_milter.certificate.usage import KeyUsageKind, usage_in

CLOCK_SKEW = timedelta(minutes=5)
"""How far ahead of ours a CA's clock may be."""
MAX_LIFETIME = timedelta(days=3660)
"""No CA means ten years for a mailbox (S/MIME BR §6.3.2: 825 days); a private CA may mean five."""


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A chain that fits. `serial` is lower-case hex without colons or leading zeros, `issuer` an RFC 4514 string."""

    serial: str
    not_before: datetime
    not_after: datetime
    leaf_der: bytes = field(repr=False)
    chain_pem: bytes = field(repr=False)
    issuer: str
    subject_address: str


def check_issued(
    chain_pem: bytes,
    *,
    address: str,
    aliases: Sequence[str] = (),
    public_key_spki: bytes,
    now: datetime,
    trust_roots: Sequence[bytes] | None = None,
    usage: KeyUsageKind = KeyUsageKind.DUAL,
) -> IssuedCertificate:
    """Check a PEM chain, leaf first, against what was ordered: `address` and its `aliases`, our key's DER SPKI and
    `usage`, at `now`.

    `trust_roots` are PEM bundles or DER certificates; None believes the last certificate of the chain. Raises
    CertificateRefused with the first fault found; ValueError when `trust_roots` or `address` make no sense.
    """
    for ours in (address, *aliases):
        subject_alternative_name(ours)  # what is wrong with it is not the CA's fault
    roots = None if trust_roots is None else load_trust_roots(trust_roots)
    chain = parse_pem_chain(chain_pem)
    try:
        _check_leaf(chain[0], (address, *aliases), public_key_spki, now, usage)
        check_chain(chain, now, roots)
        return IssuedCertificate(
            serial=f"{chain[0].serial_number:x}",
            not_before=chain[0].not_valid_before_utc,
            not_after=chain[0].not_valid_after_utc,
            leaf_der=chain[0].public_bytes(Encoding.DER),
            chain_pem=write_pem_chain(chain),
            issuer=chain[0].issuer.rfc4514_string(),
            subject_address=address,
        )
    except (
        ValueError,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ):
        # Certificates are parsed part by part, when a part is asked for. The cause quotes what the CA sent.
        raise CertificateRefused(CertificateFault.UNREADABLE, "a certificate cannot be parsed") from None


def usage_of(leaf: x509.Certificate) -> KeyUsageKind:
    """What a certificate from elsewhere is for; both where its keyUsage is of no kind that is ordered here."""
    is_rsa = isinstance(leaf.public_key(), rsa.RSAPublicKey)
    return usage_in(extension_of(leaf, x509.KeyUsage), is_rsa=is_rsa) or KeyUsageKind.DUAL


def _check_leaf(
    leaf: x509.Certificate, addresses: Sequence[str], spki: bytes, now: datetime, usage: KeyUsageKind
) -> None:
    if leaf.serial_number <= 0:
        raise CertificateRefused(CertificateFault.UNREADABLE, "the serial number is not positive")
    if spki_of(leaf.public_key()) != spki:
        raise CertificateRefused(CertificateFault.WRONG_KEY, "the certificate is for another key than ours")
    _check_names(leaf, addresses)
    _check_dates(leaf, now)
    constraints = extension_of(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise CertificateRefused(CertificateFault.IS_A_CA, "the certificate is a CA's")
    _check_purpose(leaf, usage)
    for extension in leaf.extensions:
        if extension.critical and isinstance(extension.value, x509.UnrecognizedExtension):
            raise CertificateRefused(
                CertificateFault.UNKNOWN_CRITICAL_EXTENSION,
                f"extension {extension.oid.dotted_string} is critical and unknown",
            )


def _check_names(leaf: x509.Certificate, addresses: Sequence[str]) -> None:
    """The SAN holds the addresses and nothing else; a subject that names a mailbox names one of them (RFC 8550 §3)."""
    names = extension_of(leaf, x509.SubjectAlternativeName)
    found = [] if names is None else list(names)
    for address in addresses:
        if not any(names_address(name, address) for name in found):
            which = "the mailbox" if address == addresses[0] else f"the alias {address}"
            raise CertificateRefused(CertificateFault.WRONG_NAME, f"{which} is not in the certificate's SAN")
    if not names_exactly(found, addresses):
        raise CertificateRefused(CertificateFault.EXTRA_NAME, "the SAN has more than the mailbox")
    in_subject = [str(name.value) for name in leaf.subject.get_attributes_for_oid(NameOID.EMAIL_ADDRESS)]
    in_subject += [
        str(name.value) for name in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME) if "@" in str(name.value)
    ]
    # Only a hint for old software, which compares without case; the SAN above is what counts.
    if any(name.lower() not in {address.lower() for address in addresses} for name in in_subject):
        raise CertificateRefused(CertificateFault.EXTRA_NAME, "the subject names another mailbox")


def _check_dates(leaf: x509.Certificate, now: datetime) -> None:
    not_before, not_after = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if not_after <= not_before or not_after - not_before > MAX_LIFETIME:
        raise CertificateRefused(CertificateFault.DATES_INSANE, "the validity is empty or longer than ten years")
    if not_before > now + CLOCK_SKEW:
        raise CertificateRefused(CertificateFault.NOT_YET_VALID, "the certificate is not valid yet")
    if not_after <= now:
        raise CertificateRefused(CertificateFault.EXPIRED, "the certificate has expired")


def _check_purpose(leaf: x509.Certificate, usage: KeyUsageKind) -> None:
    """emailProtection is there (S/MIME BR §7.1.2.3); keyUsage fits the key's use (RFC 8550 §4.4.2, RFC 8823 §3.3).

    One that is to sign only must not say that it can be encrypted to, nor the other way round: what others would then
    encrypt to the wrong key, nobody may be able to read.
    """
    extended = extension_of(leaf, x509.ExtendedKeyUsage)
    if extended is None or ExtendedKeyUsageOID.EMAIL_PROTECTION not in extended:
        raise CertificateRefused(CertificateFault.NO_EMAIL_PROTECTION, "the extended key usage lacks emailProtection")
    bits = extension_of(leaf, x509.KeyUsage)
    is_rsa = isinstance(leaf.public_key(), rsa.RSAPublicKey)
    if usage is not KeyUsageKind.DUAL and usage_in(bits, is_rsa=is_rsa) is KeyUsageKind.DUAL:
        raise CertificateRefused(
            CertificateFault.KEY_USAGE,
            f"keyUsage allows more than to {usage}: the authority issues no certificates for one use; layout: single",
        )
    if bits is None:
        return
    if usage is not KeyUsageKind.ENCRYPT and not (bits.digital_signature or bits.content_commitment):
        raise CertificateRefused(CertificateFault.KEY_USAGE, "keyUsage does not allow signatures")
    if usage is KeyUsageKind.SIGN:
        return
    if not (bits.key_encipherment if is_rsa else bits.key_agreement):
        needed = "keyEncipherment" if is_rsa else "keyAgreement"
        raise CertificateRefused(CertificateFault.KEY_USAGE, f"keyUsage lacks {needed}, so nobody can encrypt")
