# SPDX-License-Identifier: GPL-3.0-or-later
"""The header block as bytes: fields in order, exactly as on the wire, found and counted by name (RFC 5322 §2.2, §3.6).

Two readers of one mail must never see two mails: whatever some program might read differently (a bare CR or LF, a
blank before the colon, an mbox "From " line, a continuation of blanks only, a control character) is refused here.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from acme_milter.protocol.faults import MailFault, MailRefused

MAX_BLOCK_OCTETS = 64 * 1024
MAX_FIELDS = 200

_NAME = re.compile(rb"[\x21-\x39\x3b-\x7e]+")
# Every control character but TAB; CR and LF are dealt with line by line.
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class MalformedHeader(MailRefused):
    """The header block cannot be read in one way only, or is over a limit."""


class DuplicateHeader(MailRefused):
    """A field that may occur once occurs more often."""

    def __init__(self, name: bytes) -> None:
        super().__init__(MailFault.DUPLICATE_HEADER, f"{_printable(name)} occurs more than once")


class MissingHeader(MailRefused):
    """A field that must occur is absent."""

    def __init__(self, name: bytes) -> None:
        super().__init__(MailFault.MISSING_HEADER, f"{_printable(name)} is absent")


@dataclass(frozen=True, slots=True)
class HeaderField:
    """One field: `name` as written, `value` all after the colon, folds kept as CRLF, without the final CRLF."""

    name: bytes
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Headers:
    """The fields of one mail, top first."""

    fields: tuple[HeaderField, ...]
    _by_name: dict[bytes, tuple[HeaderField, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_name: dict[bytes, tuple[HeaderField, ...]] = {}
        for item in self.fields:
            key = item.name.lower()
            by_name[key] = (*by_name.get(key, ()), item)
        object.__setattr__(self, "_by_name", by_name)

    @classmethod
    def from_block(cls, raw: bytes) -> Self:
        """Read a header block of CRLF lines, without the empty line after it; the last CRLF may lack.

        At most 64 kB and 200 fields. Raises MalformedHeader, whose fault tells the limit or the flaw.
        """
        if len(raw) > MAX_BLOCK_OCTETS:
            raise MalformedHeader(
                MailFault.HEADER_BLOCK_TOO_LARGE, f"the header is larger than {MAX_BLOCK_OCTETS} octets"
            )
        if _CONTROL.search(raw):
            raise MalformedHeader(MailFault.HEADER_CONTROL_CHARACTER, "the header holds a control character")
        lines = raw.removesuffix(b"\r\n").split(b"\r\n")
        if any(b"\r" in line or b"\n" in line for line in lines):
            raise MalformedHeader(MailFault.BARE_NEWLINE, "the header holds a CR or LF on its own")
        return cls(tuple(_fields(lines)))

    @property
    def names(self) -> frozenset[bytes]:
        """The lower-case names that occur."""
        return frozenset(self._by_name)

    def all(self, name: bytes) -> tuple[HeaderField, ...]:
        """Every field of that name (compared without case), top first."""
        return self._by_name.get(name.lower(), ())

    def exactly_one(self, name: bytes) -> HeaderField:
        """The only field of that name; raises MissingHeader or DuplicateHeader."""
        found = self.at_most_one(name)
        if found is None:
            raise MissingHeader(name)
        return found

    def at_most_one(self, name: bytes) -> HeaderField | None:
        """The only field of that name, or None; raises DuplicateHeader."""
        found = self.all(name)
        if len(found) > 1:
            raise DuplicateHeader(name)
        return found[0] if found else None


def _fields(lines: list[bytes]) -> Iterable[HeaderField]:
    starts = [number for number, line in enumerate(lines) if line[:1] not in (b" ", b"\t")]
    if len(starts) > MAX_FIELDS:
        raise MalformedHeader(MailFault.TOO_MANY_HEADERS, f"more than {MAX_FIELDS} header fields")
    if not starts or starts[0] != 0:
        raise MalformedHeader(MailFault.HEADER_SYNTAX, "the header begins with a continuation line")
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        name, colon, first = lines[start].partition(b":")
        if not colon or not _NAME.fullmatch(name):
            raise _flawed_name(name, colon)
        # Some programs take a line of blanks for the end of the header (RFC 5322 §4.2 calls it obsolete).
        if any(not line.strip(b" \t") for line in lines[start + 1 : end]):
            raise MalformedHeader(MailFault.HEADER_SYNTAX, f"{_printable(name)} is folded by a line of blanks")
        yield HeaderField(name, b"\r\n".join([first, *lines[start + 1 : end]]))


def _flawed_name(name: bytes, colon: bytes) -> MalformedHeader:
    if colon and _NAME.fullmatch(name.rstrip(b" \t")):
        detail = f"{_printable(name.rstrip())} has a blank before its colon"
        return MalformedHeader(MailFault.BLANK_BEFORE_COLON, detail)
    return MalformedHeader(MailFault.HEADER_SYNTAX, "a header line is not a field")


def _printable(name: bytes) -> str:
    return ascii(name[:60].decode("ascii", "replace"))[1:-1]


def split_message(raw: bytes) -> tuple[Headers, bytes]:
    """Split a mail at its first empty line into Headers and the body after it; raises MalformedHeader."""
    limit = MAX_BLOCK_OCTETS + len(b"\r\n\r\n")
    end = raw.find(b"\r\n\r\n", 0, limit)
    if end >= 0:
        return Headers.from_block(raw[: end + 2]), raw[end + 4 :]
    return Headers.from_block(raw[:limit]), b""


def unfold(value: bytes) -> bytes:
    """Remove the line breaks of folding, keeping the blanks that follow them (RFC 5322 §2.2.3)."""
    return value.replace(b"\r\n ", b" ").replace(b"\r\n\t", b"\t")
