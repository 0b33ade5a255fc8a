# SPDX-License-Identifier: GPL-3.0-or-later
"""Challenge mails signed by S/MIME (RFC 8823 §3.1 items 6 and 7), right ones and, for knob SMIME_FAULT, wrong ones.

SMIME=sparse signs as little as platynum does: three fields in the attribute, no signing time, and the content both
beside the signature and in it. Certificate and key are made for each mail; the issuer is the CA's own, so
trust-roots.pem is what to trust.
"""

import base64
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from acme_milter.testca.cms import SigningPair, write_signed_data
from acme_milter.testca.draft import Draft
from acme_milter.testca.pki import Pki, key_usage

_BOUNDARY = "smime-8823"
_ABOUT_CONTENT = ("MIME-Version", "Content-Type", "Content-Transfer-Encoding")
_CHANGES = {
    "changed-from": ("From", "somebody.else@attacker.example"),
    "changed-to": ("To", "somebody.else@attacker.example"),
    "changed-subject": ("Subject", "ACME: c29tZWJvZHkgZWxzZSdzIHRva2VuIGhlcmUu"),
}

Fields = Sequence[tuple[str, str]]


def sign_smime(draft: Draft, pki: Pki, form: str, fault: str, *, sender: str, at: datetime) -> Draft:
    """Return the mail signed as knob SMIME says, with the fault that SMIME_FAULT says. `sender` is its From."""
    about = [one for one in draft.headers if one[0] not in _ABOUT_CONTENT]
    content_fields = [one for one in draft.headers if one[0] in _ABOUT_CONTENT[1:]]
    change = _CHANGES.get(fault)
    inside = [(name, change[1]) if change and name == change[0] else (name, value) for name, value in about]
    if form == "sparse":
        inside = [one for one in inside if one[0] in ("From", "To", "Subject")]
    if fault == "partly":
        inside = [one for one in inside if one[0] != "To"]
    in_attribute = form in ("attribute", "sparse")
    content = _content(
        "attribute" if in_attribute or fault == "unprotected" else form, inside, content_fields, draft.body
    )
    secure = inside if in_attribute and fault != "unprotected" else ()
    pair, others = _pair(pki, sender, fault, at)
    if fault == "twice":
        content = _multipart(content, pair, others, at, (), "inner").render()
    if form == "enclosing":
        der = write_signed_data(content, _signers(pair, fault), others, at=at, enclosing=True, hash_name=_hash(fault))
        signed = _enclosing(der.replace(b"automatic", b"hand-made", 1) if fault == "changed-body" else der)
        return _whole(about, _nested(signed) if fault == "nested" else signed)
    signed = _multipart(content, pair, others, at, secure, _BOUNDARY, fault, sparse=form == "sparse")
    if fault == "changed-body":
        signed = replace(signed, body=signed.body.replace(b"automatic", b"hand-made", 1))
    if fault == "nested":
        signed = _nested(signed)
    return _whole(about, signed)


def _whole(about: Fields, signed: Draft) -> Draft:
    return Draft((*about, ("MIME-Version", "1.0"), *signed.headers), signed.body)


def _signers(pair: SigningPair, fault: str) -> list[SigningPair]:
    return [pair, pair] if fault == "two-signers" else [pair]


def _hash(fault: str) -> str:
    return "sha1" if fault == "sha1" else "sha256"


def _content(form: str, inside: Fields, about_content: Fields, body: bytes) -> bytes:
    """The MIME entity that is signed, with the fields where `form` protects them."""
    if form == "wrapped":
        mail = Draft((*inside, ("MIME-Version", "1.0"), *about_content), body).render()
        return Draft((("Content-Type", "message/rfc822"),), mail).render()
    if form == "attribute":
        return Draft(tuple(about_content), body).render()
    marked = [
        (name, f'{value}; hp="clear"') if name == "Content-Type" else (name, value) for name, value in about_content
    ]
    return Draft((*inside, *marked), body).render()


def _multipart(
    content: bytes,
    pair: SigningPair,
    others: Sequence[x509.Certificate],
    at: datetime,
    secure: Fields,
    boundary: str,
    fault: str = "good",
    *,
    sparse: bool = False,
) -> Draft:
    """multipart/signed (RFC 8551 §3.5.3) with nothing but its Content-Type above."""
    hash_name, signers = _hash(fault), _signers(pair, fault)
    micalg = hash_name.replace("sha", "sha-")
    der = write_signed_data(
        content,
        signers,
        others,
        at=None if sparse else at,
        enclosing=sparse,
        hash_name=hash_name,
        secure_headers=secure,
    )
    delimiter = f"--{boundary}".encode("ascii")
    signature = Draft(
        (
            ("Content-Type", "application/pkcs7-signature; name=smime.p7s"),
            ("Content-Transfer-Encoding", "base64"),
            ("Content-Disposition", "attachment; filename=smime.p7s"),
        ),
        base64.encodebytes(der).replace(b"\n", b"\r\n"),
    ).render()
    body = b"\r\n".join([delimiter, content, delimiter, signature + delimiter + b"--", b""])
    kind = f'multipart/signed; protocol="application/pkcs7-signature";\r\n micalg={micalg}; boundary="{boundary}"'
    return Draft((("Content-Type", kind),), body)


def _enclosing(der: bytes) -> Draft:
    """application/pkcs7-mime (RFC 8551 §3.5.2)."""
    kind = (
        ("Content-Type", "application/pkcs7-mime; smime-type=signed-data; name=smime.p7m"),
        ("Content-Transfer-Encoding", "base64"),
    )
    return Draft(kind, base64.encodebytes(der).replace(b"\n", b"\r\n"))


def _nested(signed: Draft) -> Draft:
    """As a mailing list does it: the signed part first, a footer beside it."""
    footer = Draft((("Content-Type", "text/plain"),), b"This footer is not signed.\r\n").render()
    body = b"\r\n".join([b"--list", signed.render(), b"--list", footer, b"--list--", b""])
    return Draft((("Content-Type", 'multipart/mixed; boundary="list"'),), body)


def _pair(pki: Pki, sender: str, fault: str, at: datetime) -> tuple[SigningPair, list[x509.Certificate]]:
    """The signer's certificate and key, and the certificates that lead to a root."""
    issuer, issuer_key = pki.intermediate.certificate.subject, pki.intermediate.key
    others = [pki.intermediate.certificate]
    if fault == "untrusted":
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nobody's root")])
        issuer_key, others = ec.generate_private_key(ec.SECP256R1()), []
    key = ec.generate_private_key(ec.SECP256R1())
    begins = at - timedelta(days=400) if fault == "expired" else at - timedelta(hours=1)
    purpose = ExtendedKeyUsageOID.CLIENT_AUTH if fault == "wrong-usage" else ExtendedKeyUsageOID.EMAIL_PROTECTION
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "challenge mails")]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + timedelta(days=365))
        .add_extension(key_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if fault != "no-san":
        address = f"other.{sender}" if fault == "other-address" else sender
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.RFC822Name(address)]), critical=False)
    return SigningPair(builder.sign(issuer_key, hashes.SHA256()), key), others
