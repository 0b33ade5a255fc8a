# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of the message on a milter connection, and what follows from it. Pure: no I/O, no pymilter."""

import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import Enum

import idna

from acme_milter.protocol.subject import looks_like_challenge

# security.md's G11 in our own terms: a challenge is a few kilobytes, and one octet more than this proves it is none.
MAX_MAIL = 256 * 1024

# Names that sites give smtpd services for their own users' outgoing mail (master.cf, `-o milter_macro_daemon_name=`).
NOT_MX = frozenset({"ORIGINATING", "SUBMISSION", "SUBMISSIONS", "SMTPS"})

_CLIENT = re.compile(r"(?P<name>\S+)? ?\[(?:IPv6:)?(?P<address>[0-9A-Fa-f:.]+)\]")


class Step(Enum):
    """How a message goes on."""

    ACCEPT = "accept"
    MORE = "more"


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the MTA's macros say about a message at DATA. Empty strings where it said nothing."""

    queue_id: str | None = None
    sender: str = ""
    client_name: str = ""
    client_address: str = ""
    daemon: str = ""
    authenticated: bool = False

    @property
    def from_outside(self) -> bool:
        """Whether the mail came to an MX-facing service from someone who did not log in (condition G1)."""
        return not self.authenticated and self.daemon.upper() not in NOT_MX


@dataclass(frozen=True, slots=True)
class Candidate:
    """A mail that may be a challenge, for the worker. `raw` is at most MAX_MAIL + 1 octets, with CRLF line ends."""

    envelope: Envelope
    recipients: tuple[str, ...]
    subject: bytes = field(repr=False)
    raw: bytes = field(repr=False)
    truncated: bool


class Session:
    """The state of one connection; it holds one message at a time and must be cleared after each.

    `recipients` collects the envelope's addresses, folded. It is an open attribute because it is all that an ordinary
    mail touches.
    """

    __slots__ = (
        "_begun",
        "_body",
        "_envelope",
        "_headers",
        "_is_candidate",
        "_size",
        "_subject",
        "recipients",
        "with_blank",
    )

    def __init__(self, *, with_blank: bool = True) -> None:
        self.with_blank = with_blank  # whether header values come with the blank after the colon
        self.recipients: list[str] = []
        self._begun = False

    def clear(self) -> None:
        """Forget the message."""
        self.recipients = []
        self._begun = False

    def at_data(self, managed: AbstractSet[str] | None) -> Step:
        """ACCEPT when no recipient is in `managed`; None means that nobody knows, so that any may be."""
        if managed is not None and managed.isdisjoint(self.recipients):
            return Step.ACCEPT
        return Step.MORE

    def begin(self, envelope: Envelope) -> Step:
        """Take the envelope of a mail that may have a managed recipient; ACCEPT when it is not for us by its origin."""
        self._begun = True
        self._envelope = envelope
        self._headers: list[bytes] = []
        self._body: list[bytes] = []
        self._size = len(b"\r\n")  # between headers and body
        self._subject = b""
        self._is_candidate = False
        return Step.MORE if envelope.from_outside else Step.ACCEPT

    def header(self, name: str, value: bytes) -> None:
        """Take one header field: the value as libmilter hands it, lines joined by LF alone."""
        if not self._begun or self._size > MAX_MAIL:
            return
        if not self._is_candidate and name.casefold() == "subject" and looks_like_challenge(value):
            self._is_candidate = True
            self._subject = value
        blank = b"" if self.with_blank else b" "
        line = b"%b:%b%b\r\n" % (name.encode("ascii", "replace"), blank, value.replace(b"\n", b"\r\n"))
        self._headers.append(line)
        self._size += len(line)

    def at_end_of_headers(self) -> Step:
        """ACCEPT unless some Subject may be a challenge's. Whether there are too many is the worker's to judge."""
        if not self._begun or not self._is_candidate:
            return Step.ACCEPT
        return Step.MORE

    def body(self, chunk: bytes) -> bool:
        """Take a piece of the body; False when no more is needed."""
        if not self._begun:
            return False
        room = MAX_MAIL + 1 - self._size
        if room > 0:
            self._body.append(chunk[:room])
            self._size += len(chunk)
        return self._size <= MAX_MAIL

    def candidate(self) -> Candidate:
        """The mail as collected; only between `begin` and `clear`."""
        raw = b"".join((*self._headers, b"\r\n", *self._body))[: MAX_MAIL + 1]
        return Candidate(
            envelope=self._envelope,
            recipients=tuple(self.recipients),
            subject=self._subject,
            raw=raw,
            truncated=self._size > MAX_MAIL,
        )


def fold_recipient(address: str) -> str:
    """An envelope address as the managed set has it: no brackets, lower case, the domain in A-labels.

    Postfix's {rcpt_addr} is folded and unquoted already, but for a domain in U-labels (RFC 6531).
    """
    address = address.strip().removeprefix("<").removesuffix(">").lower()
    if address.isascii():
        return address
    local, at, domain = address.rpartition("@")
    try:
        return local + at + idna.encode(domain, uts46=True).decode("ascii")
    except idna.IDNAError:
        return address


def client_of(macro: str) -> tuple[str, str]:
    """Name and address out of the MTA's `_` macro, "mail.example [192.0.2.1]"; empty strings for what is not there."""
    found = _CLIENT.search(macro)
    return (found["name"] or "", found["address"]) if found else ("", "")
