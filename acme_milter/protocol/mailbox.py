# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses by a strict grammar: what a Mailbox is, and how the one address of a From, To or Reply-To is read.

Forgiving readers of addresses disagree with each other, and an attacker lives in the difference; so whatever is not
plainly one dot-atom address is refused (RFC 5321 §4.1.2, RFC 6531 §3.3, RFC 8823 §3.1 items 2 to 4).
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Self

import idna

from acme_milter.protocol.headers import unfold

MAX_LOCAL_OCTETS = 64
MAX_ADDRESS_OCTETS = 254
# A folded address with a display name needs a few hundred octets; more is an attempt at something.
MAX_HEADER_OCTETS = 2048

_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"
_ATOM = re.compile(rf"[{_ATEXT}]+")
_ATOM_UTF8 = re.compile(rf"[{_ATEXT}\u0080-\U0010ffff]+")
_LABEL = re.compile(r"[a-z0-9-]{1,63}")
_DISPLAY_ATOMS = re.compile(rf"[{_ATEXT}. \t\u0080-\U0010ffff]*")
_DISPLAY_QUOTED = re.compile('"[^"\\\\@<>,()\\x00-\\x08\\x0a-\\x1f\\x7f]*"')


class InvalidMailbox(ValueError):
    """The text is not one address of the strict grammar; the text itself is never part of the message."""

    safe_text = True


@dataclass(frozen=True, slots=True)
class Mailbox:
    """One address: a dot-atom local part exactly as written, and a lower-case A-label domain.

    Equality is RFC 9598's: octet for octet on the local part, the domain in its canonical form. Constructing one
    checks both parts, so no Mailbox can carry a blank, a control character or an angle bracket into a reply.
    """

    local: str
    domain: str

    def __post_init__(self) -> None:
        _check_local(self.local)
        if canonical_domain(self.domain) != self.domain:
            raise InvalidMailbox("the domain is not in lower-case A-label form")
        if len(str(self).encode("utf-8")) > MAX_ADDRESS_OCTETS:
            raise InvalidMailbox(f"the address is longer than {MAX_ADDRESS_OCTETS} octets")

    @classmethod
    def parse(cls, text: str | bytes, *, allow_utf8: bool = False) -> Self:
        """Read an addr-spec: `local@domain`, no blanks, comments, quotes, routes or literals.

        Octets above 127 (RFC 6531) are refused unless `allow_utf8`. Raises InvalidMailbox.
        """
        if len(text) > MAX_ADDRESS_OCTETS:
            raise InvalidMailbox(f"the address is longer than {MAX_ADDRESS_OCTETS} octets")
        if isinstance(text, bytes):
            try:
                text = text.decode("utf-8")
            except UnicodeDecodeError:
                raise InvalidMailbox("the address is not UTF-8") from None
        if not allow_utf8 and not text.isascii():
            raise InvalidMailbox("the address has characters outside ASCII")
        local, at, domain = text.partition("@")
        if not at or "@" in domain:
            raise InvalidMailbox("the address does not have exactly one @")
        return cls(local, canonical_domain(domain))

    @property
    def is_ascii(self) -> bool:
        """False when mailing this address needs SMTPUTF8 (RFC 6531)."""
        return self.local.isascii()

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}"


def _check_local(local: str) -> None:
    if not local or len(local.encode("utf-8", "surrogatepass")) > MAX_LOCAL_OCTETS:
        raise InvalidMailbox(f"the local part has 0 or more than {MAX_LOCAL_OCTETS} octets")
    atom = _ATOM if local.isascii() else _ATOM_UTF8
    if not all(atom.fullmatch(part) for part in local.split(".")):
        raise InvalidMailbox("the local part is not a dot-atom")
    # Separators, controls, invisible and private characters have no business in an address (RFC 6532 §3.1).
    if any(unicodedata.category(char)[0] in "ZC" for char in local):
        raise InvalidMailbox("the local part holds a blank or an invisible character")


def canonical_domain(domain: str) -> str:
    """The lower-case A-label form of a domain of two labels or more (RFC 5890); raises InvalidMailbox."""
    if not domain or len(domain) > 253:
        raise InvalidMailbox("the domain has 0 or more than 253 characters")
    lowered = domain.lower()
    if not lowered.isascii():
        try:
            lowered = idna.encode(unicodedata.normalize("NFC", lowered), strict=True).decode("ascii")
        except idna.IDNAError:
            raise InvalidMailbox("the domain is not a valid internationalized name") from None
    labels = lowered.split(".")
    if len(labels) < 2 or len(lowered) > 253:
        raise InvalidMailbox("the domain does not have at least two labels")
    if not all(_LABEL.fullmatch(label) and label[0] != "-" != label[-1] for label in labels):
        raise InvalidMailbox("the domain is not made of letters, digits and hyphens")
    if labels[-1].isdigit():
        raise InvalidMailbox("the domain is a number")
    return lowered


def parse_single_address_header(value: bytes, header_name: str, *, allow_utf8: bool = False) -> Mailbox:
    """Read the one address of an address header, `local@domain` or `display name <local@domain>`.

    `value` is the field's value as on the wire. The display name is ignored, but must be harmless: atoms or one
    quoted string without @ < > , and parentheses. Groups, routes, comments, lists and several angle brackets raise
    InvalidMailbox, whose text names the header.
    """
    try:
        return _parse_address(unfold(value), allow_utf8)
    except InvalidMailbox as problem:
        raise InvalidMailbox(f"{header_name}: {problem}") from None


def _parse_address(value: bytes, allow_utf8: bool) -> Mailbox:
    if len(value) > MAX_HEADER_OCTETS:
        raise InvalidMailbox(f"longer than {MAX_HEADER_OCTETS} octets")
    try:
        text = value.decode("utf-8" if allow_utf8 else "ascii").strip(" \t")
    except UnicodeDecodeError:
        raise InvalidMailbox("characters that are not allowed here") from None
    if not text.endswith(">"):
        return Mailbox.parse(text, allow_utf8=allow_utf8)
    display, _, address = text[:-1].partition("<")
    display = display.strip(" \t")
    if not (_DISPLAY_ATOMS.fullmatch(display) or _DISPLAY_QUOTED.fullmatch(display)):
        raise InvalidMailbox("a display name that is not plain words or one quoted string")
    return Mailbox.parse(address, allow_utf8=allow_utf8)
