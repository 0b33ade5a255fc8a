# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a signer's certificate may sign challenge mails: its key, purpose, path to a trusted one, address.

`cryptography` builds the path (RFC 5280 §6: signatures, names, validity, path lengths, name constraints, no unknown
critical extension); what it must be for in mail is said here (RFC 8550 §4.4). Only the child imports this.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store, VerificationError

from acme_milter.protocol.faults import MailFault, MailRefused
from acme_milter.protocol.mailbox import InvalidMailbox, Mailbox

MINIMUM_RSA_BITS = 2048
MAXIMUM_RSA_BITS = 8192
_CURVES = (ec.SECP256R1, ec.SECP384R1)

ExtensionT = TypeVar("ExtensionT", bound=x509.ExtensionType)
SignerKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


def signer_key(certificate: x509.Certificate) -> SignerKey:
    """The public key, when it is RSA of 2048 bits or more, P-256 or P-384. Raises MailRefused(SMIME_ALGORITHM)."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise MailRefused(MailFault.SMIME_ALGORITHM, "the signer's key cannot be read") from None
    if isinstance(key, rsa.RSAPublicKey) and MINIMUM_RSA_BITS <= key.key_size <= MAXIMUM_RSA_BITS:
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
        return key
    raise MailRefused(
        MailFault.SMIME_ALGORITHM,
        f"the signer's key is neither RSA of {MINIMUM_RSA_BITS} bits or more, P-256 nor P-384",
    )


def check_certificate(
    certificate: x509.Certificate,
    others: Sequence[x509.Certificate],
    trusted: Sequence[x509.Certificate],
    now: datetime,
) -> None:
    """Purpose and path at `now`; `others` came with the mail and are believed in nothing.

    Raises MailRefused: SMIME_CERTIFICATE, SMIME_UNTRUSTED. Revocation is not asked after: there is no network here.
    """
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise _unfit("is not valid now")
    purposes = _extension(certificate, x509.ExtendedKeyUsage)
    if purposes is None or ExtendedKeyUsageOID.EMAIL_PROTECTION not in purposes:
        raise _unfit("is not for mail (extended key usage emailProtection)")
    usage = _extension(certificate, x509.KeyUsage)
    if usage is not None and not (usage.digital_signature or usage.content_commitment):
        raise _unfit("may not sign (key usage)")
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise _unfit("is an authority's own")
    issuers = (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _is_authority)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _may_sign_certificates)
        .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _is_for_mail)
    )
    verifier = (
        PolicyBuilder()
        .store(Store(list(trusted)))
        .time(now)
        .extension_policies(ee_policy=ExtensionPolicy.permit_all(), ca_policy=issuers)
        .build_client_verifier()
    )
    try:
        verifier.verify(certificate, list(others))
    except (VerificationError, ValueError):
        detail = "no path leads from the signer's certificate to one of the authority's smime_trust"
        raise MailRefused(MailFault.SMIME_UNTRUSTED, detail) from None


def check_address(certificate: x509.Certificate, sender: Mailbox) -> None:
    """RFC 8823 §3.1 item 6: an rfc822Name of the certificate equals From; the domain without case (RFC 9598 §5).

    Raises MailRefused(SMIME_ADDRESS). An address in the subject's name proves nothing.
    """
    names = _extension(certificate, x509.SubjectAlternativeName)
    addresses = [] if names is None else names.get_values_for_type(x509.RFC822Name)
    if not addresses:
        raise MailRefused(MailFault.SMIME_ADDRESS, "the signer's certificate names no mail address (rfc822Name)")
    if not any(_is_address(text, sender) for text in addresses):
        raise MailRefused(MailFault.SMIME_ADDRESS, "the signer's certificate is for another address than From")


def _is_address(text: str, sender: Mailbox) -> bool:
    try:
        return Mailbox.parse(text) == sender
    except InvalidMailbox:
        return False


def _extension(certificate: x509.Certificate, kind: type[ExtensionT]) -> ExtensionT | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise _unfit("cannot be read") from None


def _is_authority(_: Policy, __: x509.Certificate, constraints: x509.BasicConstraints) -> None:
    if not constraints.ca:
        raise ValueError("no CA")


def _may_sign_certificates(_: Policy, __: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("may not sign certificates")


def _is_for_mail(_: Policy, __: x509.Certificate, purposes: x509.ExtendedKeyUsage | None) -> None:
    """RFC 8550 §4.4.4, for whoever issues: a CA that may certify web servers only certifies no mail."""
    fitting = (ExtendedKeyUsageOID.EMAIL_PROTECTION, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
    if purposes is not None and not any(one in purposes for one in fitting):
        raise ValueError("not for mail")


def _unfit(why: str) -> MailRefused:
    return MailRefused(MailFault.SMIME_CERTIFICATE, f"the signer's certificate {why}")
