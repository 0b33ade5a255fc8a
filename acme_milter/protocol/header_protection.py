# SPDX-License-Identifier: GPL-3.0-or-later
"""Which header fields an S/MIME signature covers, and whether they are those of the mail (RFC 8823 §3.1 item 7).

Three ways, in this order: the fields of the signed part itself, where its Content-Type says hp="clear" (RFC 9788);
those of a mail wrapped in message/rfc822 (RFC 8551 §3.1, read as RFC 9788 §4.10 tells); a signed attribute that lists
them (RFC 7508). What the mail says outside must be what is protected: we read one mail, not two.

RFC 8823 lists the fields that DKIM must cover (§3.1 item 6), and none for S/MIME: there are authorities that protect
From, To and Subject only. What may stay open besides is what cannot lead an answer astray, and nothing else.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from acme_milter.protocol.content_type import ContentType, InvalidContentType, content_type_of, is_identity_encoded
from acme_milter.protocol.dkim_policy import REQUIRED_CHALLENGE_NAMES
from acme_milter.protocol.faults import MailFault, MailRefused
from acme_milter.protocol.headers import HeaderField, Headers, split_message, unfold
from acme_milter.protocol.smime_structure import LAYERED

PROTECTED_NAMES = tuple(name for name in REQUIRED_CHALLENGE_NAMES if not name.startswith("content-"))
"""What DKIM would have to cover, but for the two fields that are about the signed form itself."""

MAY_BE_OPEN = frozenset({"auto-submitted", "date", "message-id"})
"""Whoever changes one of these gains nothing by it; docs/signed-challenges.md has the argument for each. Of the others,
those that are there must be protected: an open Reply-To would have the answer sent to whoever wrote it."""

WRAPPERS = frozenset({"message/rfc822", "message/global"})
_BLANKS = re.compile(rb"[ \t]+")
_PASSED_ON = (b"list-", b"resent-")  # a mail that has them outside came no further than G5


class Protection(StrEnum):
    """How the header fields are protected."""

    CLEAR = "rfc9788"
    WRAPPED = "rfc8551"
    ATTRIBUTE = "rfc7508"


@dataclass(frozen=True, slots=True)
class SecureField:
    """One field of RFC 7508's attribute; `duplicated` when the signer says that it stands outside unchanged."""

    name: bytes
    value: bytes = field(repr=False)
    duplicated: bool


@dataclass(frozen=True, slots=True)
class ProtectedHeaders:
    """The fields that the signature covers."""

    kind: Protection
    headers: Headers = field(repr=False)


def protected_headers(payload: bytes, attribute: Sequence[SecureField] | None) -> ProtectedHeaders:
    """Find the protected fields of a signed MIME entity. Raises MailRefused.

    `attribute` are the fields of RFC 7508's signed attribute, None where the signer has none.
    """
    headers, body = split_message(payload)
    kind = _type_of(headers)
    if kind.parameter("hp") == "clear":
        return ProtectedHeaders(Protection.CLEAR, headers)
    if kind.name in WRAPPERS:
        if not is_identity_encoded(headers):
            raise MailRefused(MailFault.SMIME_UNPROTECTED, "the wrapped mail has a Content-Transfer-Encoding")
        inner, _ = split_message(body)
        _type_of(inner)
        return ProtectedHeaders(Protection.WRAPPED, inner)
    if attribute is None:
        raise MailRefused(
            MailFault.SMIME_UNPROTECTED,
            'no header field is protected: neither hp="clear" (RFC 9788), nor message/rfc822 (RFC 8551), nor a signed'
            " attribute (RFC 7508)",
        )
    if not all(one.duplicated for one in attribute):
        raise MailRefused(
            MailFault.SMIME_HEADER_DIFFERS, "the signer says that a header field stands otherwise outside"
        )
    return ProtectedHeaders(Protection.ATTRIBUTE, Headers(tuple(HeaderField(one.name, one.value) for one in attribute)))


def check_protection(outer: Headers, protected: ProtectedHeaders) -> None:
    """Every field that leads an answer is protected, and what is protected is the same outside. Raises MailRefused.

    Folding and runs of blanks may differ, as in DKIM's relaxed form (RFC 6376 §3.4.2). From, To and Subject are in
    `outer`, once each.
    """
    naked: list[str] = []
    different = sorted(name.decode("ascii") for name in protected.headers.names if name.startswith(_PASSED_ON))
    for name in PROTECTED_NAMES:
        outside = outer.all(name.encode("ascii"))
        inside = protected.headers.all(name.encode("ascii"))
        if outside and not inside:
            naked += [] if name in MAY_BE_OPEN else [name]
        elif [_relaxed(one) for one in outside] != [_relaxed(one) for one in inside] or len(inside) > 1:
            different.append(name)
    if different:
        detail = f"{', '.join(different)}: not the same inside the signature and outside"
        raise MailRefused(MailFault.SMIME_HEADER_DIFFERS, detail)
    if naked:
        detail = f"the signature protects header fields ({protected.kind}), but not {', '.join(naked)}"
        raise MailRefused(MailFault.SMIME_UNPROTECTED, detail)


def _type_of(headers: Headers) -> ContentType:
    try:
        kind = content_type_of(headers)
    except InvalidContentType as problem:
        raise MailRefused(MailFault.SMIME_STRUCTURE, f"inside the signature, {problem}") from None
    if kind.name in LAYERED:
        raise MailRefused(MailFault.SMIME_STRUCTURE, "there is a second signature inside the signature")
    return kind


def _relaxed(item: HeaderField) -> bytes:
    return _BLANKS.sub(b" ", unfold(item.value)).strip(b" ")
