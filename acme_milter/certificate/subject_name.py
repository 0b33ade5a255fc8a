# SPDX-License-Identifier: GPL-3.0-or-later
"""How a mailbox address is written in a certificate (RFC 9598, RFC 5280 §4.2.1.6)."""

import re
from collections.abc import Iterable, Sequence

from cryptography import x509

SMTP_UTF8_MAILBOX = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.9")
"""id-on-SmtpUTF8Mailbox (RFC 9598 §3)."""

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u0080-\U0010ffff]"
_LOCAL_PART = re.compile(rf"{_ATEXT}+(?:\.{_ATEXT}+)*\Z")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\Z")
_MAX_ADDRESS = 254  # RFC 5321 §4.5.3.1.3, less the angle brackets
_UTF8_STRING = 0x0C


class InvalidAddress(ValueError):
    """The text is no mailbox address a certificate can carry."""

    safe_text = True


def subject_alternative_name(address: str) -> x509.GeneralName:
    """The SAN entry for `address`: an rfc822Name when its local part is ASCII, else an otherName
    SmtpUTF8Mailbox.

    The domain has to be in A-labels already; the spelling stays as given, but for SmtpUTF8Mailbox, whose
    domain is lower case (RFC 9598 §3). Raises InvalidAddress.
    """
    local_part, domain = split_address(address)
    if local_part.isascii():
        return x509.RFC822Name(address)
    return x509.OtherName(SMTP_UTF8_MAILBOX, _utf8_string(f"{local_part}@{domain.lower()}".encode()))


def split_address(address: str) -> tuple[str, str]:
    """(local part, domain) of a dot-atom address with an A-label domain. Raises InvalidAddress."""
    local_part, at, domain = address.rpartition("@")
    if not at or not _LOCAL_PART.match(local_part) or not _DOMAIN.match(domain):
        raise InvalidAddress("not an address of the form dot-atom@A-label.domain")
    try:
        length = len(address.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidAddress("the address is not Unicode text") from None
    if length > _MAX_ADDRESS:
        raise InvalidAddress(f"the address has more than {_MAX_ADDRESS} octets")
    return local_part, domain


def names_address(name: x509.GeneralName, address: str) -> bool:
    """Whether a SAN entry is this address: local part octet for octet, domain without case (RFC 9598 §5).

    The two forms never equal each other.
    """
    expected = subject_alternative_name(address)
    if isinstance(name, x509.RFC822Name) and isinstance(expected, x509.RFC822Name):
        return _folded(name.value) == _folded(expected.value)
    return name == expected


def other_spellings(names: Iterable[x509.GeneralName], address: str) -> list[str]:
    """The address as SAN entries spell it, where their local part differs in upper and lower case; rfc822Names only."""
    _, at, domain = address.rpartition("@")
    written = (_folded(name.value)[0] + at + domain for name in names if isinstance(name, x509.RFC822Name))
    return [spelled for spelled in dict.fromkeys(written) if spelled != address and spelled.lower() == address.lower()]


def names_exactly(names: Iterable[x509.GeneralName], addresses: Sequence[str]) -> bool:
    """Whether SAN entries are these addresses, each of them once, in whatever order, and nothing else."""
    found = list(names)
    each = [sum(names_address(name, address) for name in found) for address in addresses]
    return len(found) == len(addresses) and all(number == 1 for number in each)


def _folded(address: str) -> tuple[str, str]:
    local_part, _, domain = address.rpartition("@")
    return local_part, domain.lower()


def _utf8_string(content: bytes) -> bytes:
    """DER of a UTF8String; lengths from 128 on take the long form (X.690 §8.1.3)."""
    if len(content) < 0x80:
        return bytes([_UTF8_STRING, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([_UTF8_STRING, 0x80 | len(length)]) + length + content
