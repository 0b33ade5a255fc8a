# SPDX-License-Identifier: GPL-3.0-or-later
"""Where in a mail its S/MIME signature is, and which octets it is over (RFC 8551 §3.5, RFC 1847 §2.1).

The whole mail has to be one signature: what stands beside or around the signed part would be proven by nothing.
"""

import binascii
import re
from dataclasses import dataclass, field
from enum import StrEnum

from acme_milter.protocol.content_type import (
    ContentType,
    InvalidContentType,
    content_type_of,
    is_base64_encoded,
    is_identity_encoded,
)
from acme_milter.protocol.faults import MailFault, MailRefused
from acme_milter.protocol.headers import Headers, split_message

MULTIPART = "multipart/signed"
OPAQUE = frozenset({"application/pkcs7-mime", "application/x-pkcs7-mime"})
DETACHED = frozenset({"application/pkcs7-signature", "application/x-pkcs7-signature"})
LAYERED = OPAQUE | {MULTIPART, "multipart/encrypted"}
"""Media types of another cryptographic layer; inside a signature they mean that the mail is signed twice."""

_BOUNDARY = re.compile(r"[A-Za-z0-9'()+_,./:=? -]{0,69}[A-Za-z0-9'()+_,./:=?-]")
_BASE64_LINES = re.compile(rb"[A-Za-z0-9+/=\r\n]*")


class SmimeForm(StrEnum):
    """How the signature travels: beside what it is over, or around it."""

    DETACHED = "multipart/signed"
    ENCLOSING = "application/pkcs7-mime"


@dataclass(frozen=True, slots=True)
class SignedMail:
    """`content` are the exact octets signed, None where they are inside `cms`, a SignedData in DER or BER.

    `micalg` are the hash algorithms that a multipart/signed names, in lower case and as written, else empty.
    """

    form: SmimeForm
    content: bytes | None = field(repr=False)
    cms: bytes = field(repr=False)
    micalg: tuple[str, ...]


def looks_signed(headers: Headers) -> bool:
    """Whether a mail says that it is S/MIME-signed; cheap, and right for all that find_signature accepts."""
    try:
        return _form_of(content_type_of(headers)) is not None
    except InvalidContentType:
        return False


def find_signature(headers: Headers, body: bytes) -> SignedMail:
    """Take a mail apart, CRLF throughout. Raises MailRefused: SMIME_NONE, SMIME_STRUCTURE."""
    try:
        kind = content_type_of(headers)
    except InvalidContentType as problem:
        raise _flawed(str(problem)) from None
    match _form_of(kind):
        case SmimeForm.DETACHED:
            return _detached(kind, headers, body)
        case SmimeForm.ENCLOSING:
            if not is_base64_encoded(headers):
                raise _flawed("the mail is application/pkcs7-mime, but not in base64")
            return SignedMail(SmimeForm.ENCLOSING, None, _from_base64(body), ())
    raise MailRefused(MailFault.SMIME_NONE, "the mail is not S/MIME-signed")


def _form_of(kind: ContentType) -> SmimeForm | None:
    if kind.name == MULTIPART and (kind.parameter("protocol") or "").lower() in DETACHED:
        return SmimeForm.DETACHED
    # RFC 8823 §3.1 item 7 names the parameter; RFC 8551 §3.2.2 leaves it out only for senders of old.
    if kind.name in OPAQUE and (kind.parameter("smime-type") or "").lower() == "signed-data":
        return SmimeForm.ENCLOSING
    return None


def _detached(kind: ContentType, headers: Headers, body: bytes) -> SignedMail:
    if not is_identity_encoded(headers):
        raise _flawed("a multipart has a Content-Transfer-Encoding")
    micalg = tuple(name.strip().lower() for name in (kind.parameter("micalg") or "").split(",") if name.strip())
    if not micalg:
        raise _flawed("multipart/signed names no micalg")
    content, signature = _two_parts(body, kind.parameter("boundary"))
    inner, encoded = split_message(signature)
    try:
        fits = content_type_of(inner).name in DETACHED
    except InvalidContentType:
        fits = False
    if not fits or not is_base64_encoded(inner):
        raise _flawed("the second part of multipart/signed is not a PKCS #7 signature in base64")
    return SignedMail(SmimeForm.DETACHED, content, _from_base64(encoded), micalg)


def _two_parts(body: bytes, boundary: str | None) -> tuple[bytes, bytes]:
    """RFC 2046 §5.1.1: the line break before a delimiter belongs to it. Exactly two parts, nothing after them."""
    if boundary is None or not _BOUNDARY.fullmatch(boundary):
        raise _flawed("the boundary is missing or has another form than RFC 2046 gives it")
    delimiter = b"--" + boundary.encode("ascii")
    found: list[tuple[bytes, int, int]] = []
    position = 0
    for line in body.split(b"\r\n"):
        if line.startswith(delimiter):
            found.append((line[len(delimiter) :].rstrip(b" \t"), position, position + len(line) + 2))
        position += len(line) + 2
    # A line that merely begins with the delimiter is the end of a part to some programs, and text to others.
    if [ending for ending, _, _ in found] != [b"", b"", b"--"]:
        raise _flawed("multipart/signed does not have exactly two parts")
    (_, _, first), (_, middle, second), (_, last, after) = found
    if middle - 2 < first or last - 2 < second:
        raise _flawed("multipart/signed has an empty part")
    if body[after:].strip():
        raise _flawed("there is text after the signature, which nothing proves")
    return body[first : middle - 2], body[second : last - 2]


def _from_base64(encoded: bytes) -> bytes:
    if not _BASE64_LINES.fullmatch(encoded):
        raise _flawed("the signature is not base64")
    try:
        return binascii.a2b_base64(encoded.translate(None, b"\r\n"), strict_mode=True)
    except binascii.Error:
        raise _flawed("the signature is not base64") from None


def _flawed(detail: str) -> MailRefused:
    return MailRefused(MailFault.SMIME_STRUCTURE, detail)
