# SPDX-License-Identifier: GPL-3.0-or-later
"""A mail's S/MIME signature, judged whole: S1 to S7 of docs/gate.md, in that order. Only the child imports this.

`cryptography` does the arithmetic, over the octets as they came; the rules are those of RFC 8823 §3.1 items 6 and 7.
"""

import hashlib
import hmac
import warnings
from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from acme_milter.protocol.challenge_mail import ChallengeMail, parse_challenge_mail
from acme_milter.protocol.faults import MailFault, MailRefused
from acme_milter.protocol.header_protection import check_protection, protected_headers
from acme_milter.protocol.headers import split_message
from acme_milter.protocol.smime_cms import Signer, parse_signed_data
from acme_milter.protocol.smime_structure import SignedMail, find_signature
from acme_milter.protocol.smime_verdict import SmimeVerdict, check_smime_times
from acme_milter.worker.smime_certificate import SignerKey, check_address, check_certificate, signer_key

_HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}


def judge(raw: bytes, trusted: bytes, *, now: datetime, not_before: datetime | None) -> SmimeVerdict:
    """The verdict on a challenge mail as it came; `trusted` is PEM, `not_before` when the order was made. Never raises
    MailRefused: that is what a verdict says.
    """
    try:
        mail = parse_challenge_mail(raw, require_auto_submitted=False)
        return _judge(mail, load_trusted(trusted), now, not_before)
    except MailRefused as refused:
        return SmimeVerdict(refused.fault, refused.detail)


def load_trusted(pem: bytes) -> list[x509.Certificate]:
    """The certificates of smime_trust; raises MailRefused(SMIME_TRUST_UNREADABLE)."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise MailRefused(MailFault.SMIME_TRUST_UNREADABLE, "smime_trust holds no certificates (PEM)") from None


def _judge(
    mail: ChallengeMail, trusted: Sequence[x509.Certificate], now: datetime, not_before: datetime | None
) -> SmimeVerdict:
    signed = find_signature(mail.headers, split_message(mail.raw)[1])
    data = parse_signed_data(signed.cms)
    content = signed.content if signed.content is not None else data.content
    if content is None:
        raise MailRefused(MailFault.SMIME_STRUCTURE, "what is signed is neither beside the signature nor in it")
    if data.content not in (None, content):
        # RFC 8551 §3.5.3.1 wants nothing in there; one authority puts the same again. Another one would be two mails.
        raise MailRefused(MailFault.SMIME_STRUCTURE, "what is signed is not the same beside the signature and in it")
    certificates = [_loaded(der) for der in data.certificates]
    certificate = _certificate_of(data.signer, certificates)
    key = signer_key(certificate)
    _check_micalg(signed, data.signer)
    _check_signature(content, data.signer, key)
    check_certificate(certificate, [one for one in certificates if one != certificate], trusted, now)
    check_address(certificate, mail.sender)
    protected = protected_headers(content, data.signer.secure_headers)
    check_protection(mail.headers, protected)
    dated = check_smime_times(
        signed=data.signer.signing_time,
        written=mail.date,
        written_is_protected=bool(protected.headers.all(b"Date")),
        now=now,
        not_before=not_before,
    )
    return SmimeVerdict(None, "", f"{certificate.serial_number:x}", str(protected.kind), dated)


def _loaded(der: bytes) -> x509.Certificate:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what the library only warns of, RFC 5280 forbids
            certificate = x509.load_der_x509_certificate(der)
            certificate.issuer.public_bytes()  # read only when asked for, and not to be stumbled over later
    except (ValueError, x509.InvalidVersion, Warning):
        raise MailRefused(MailFault.SMIME_MALFORMED, "a certificate of the signature cannot be read") from None
    return certificate


def _certificate_of(signer: Signer, certificates: Sequence[x509.Certificate]) -> x509.Certificate:
    """RFC 5652 §5.3: the certificate that the signer names; it has to come with the mail."""
    found = [one for one in certificates if _is_named(signer, one)]
    if len(set(found)) != 1:
        raise MailRefused(MailFault.SMIME_SIGNERS, "the signer's certificate is not in the mail, or not the only one")
    return found[0]


def _is_named(signer: Signer, certificate: x509.Certificate) -> bool:
    if signer.issuer is not None:
        return certificate.serial_number == signer.serial and certificate.issuer.public_bytes() == signer.issuer
    try:
        identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return False
    return identifier == signer.key_identifier


def _check_micalg(signed: SignedMail, signer: Signer) -> None:
    """RFC 8551 §3.5.3.2. Nothing rests on it, but a mail that names another hash has been meddled with."""
    if signed.micalg and {name.replace("-", "") for name in signed.micalg} != {signer.hash_name}:
        raise MailRefused(MailFault.SMIME_ALGORITHM, f"micalg is not the hash that was used, {signer.hash_name}")


def _check_signature(content: bytes, signer: Signer, key: SignerKey) -> None:
    """RFC 5652 §5.4 and §5.6: the digest is the content's, and the signature is over the attributes that hold it."""
    digest = hashlib.new(signer.hash_name, content).digest()
    if not hmac.compare_digest(digest, signer.message_digest):
        raise MailRefused(MailFault.SMIME_SIGNATURE, "the content has been changed since it was signed")
    chosen = _HASHES[signer.hash_name]
    try:
        match key, signer.scheme:
            case rsa.RSAPublicKey(), "rsa":
                key.verify(signer.signature, signer.attributes, padding.PKCS1v15(), chosen)
            case rsa.RSAPublicKey(), "rsa-pss":
                scheme = padding.PSS(mgf=padding.MGF1(chosen), salt_length=signer.salt_octets)
                key.verify(signer.signature, signer.attributes, scheme, chosen)
            case ec.EllipticCurvePublicKey(), "ecdsa":
                key.verify(signer.signature, signer.attributes, ec.ECDSA(chosen))
            case _:
                raise MailRefused(MailFault.SMIME_ALGORITHM, "the signature is of another kind than the signer's key")
    except (InvalidSignature, ValueError):
        raise MailRefused(MailFault.SMIME_SIGNATURE, "the signature does not verify") from None
