# SPDX-License-Identifier: GPL-3.0-or-later
"""A ChallengeMail from raw bytes: every condition of RFC 8823 §3.1 that the mail alone can answer, DKIM excepted.

The conditions are tried in one fixed order, cheap ones first, and the first that fails is the fault reported.
"""

from dataclasses import dataclass, field
from datetime import datetime

from acme_milter.protocol.auto_submitted import InvalidAutoSubmitted, parse_auto_submitted
from acme_milter.protocol.faults import MailFault, MailRefused
from acme_milter.protocol.headers import Headers, MissingHeader, split_message
from acme_milter.protocol.mail_date import InvalidDate, parse_date
from acme_milter.protocol.mailbox import InvalidMailbox, Mailbox, parse_single_address_header
from acme_milter.protocol.message_id import parse_message_id, parse_references
from acme_milter.protocol.subject import parse_challenge_subject
from acme_milter.protocol.token import TokenPart1

MAX_MAIL_OCTETS = 256 * 1024
MAX_LINE_OCTETS = 2000

# DKIM covers the bottom instance of a field while most readers show the top one (RFC 6376 §8.15).
REQUIRED_ONCE = (b"Subject", b"From", b"To")
AT_MOST_ONCE = (
    b"Date",
    b"Message-ID",
    b"Reply-To",
    b"Sender",
    b"Cc",
    b"In-Reply-To",
    b"References",
    b"Auto-Submitted",
    b"Content-Type",
    b"Content-Transfer-Encoding",
    b"MIME-Version",
)


@dataclass(frozen=True, slots=True)
class ChallengeMail:
    """One challenge mail whose form is beyond doubt; that it is genuine is for DKIM to say.

    `message_id` and `references` are verbatim identifiers of the strict grammar, or absent; `references` are the
    ancestors our reply names before `message_id` (RFC 3834 §3.1.6). `date` and `auto_submitted` are None when the
    field is absent.
    """

    sender: Mailbox
    recipient: Mailbox
    reply_to: Mailbox | None
    token_part1: TokenPart1 = field(repr=False)
    message_id: bytes | None
    references: tuple[bytes, ...]
    date: datetime | None
    auto_submitted: str | None
    headers: Headers = field(repr=False)
    raw: bytes = field(repr=False)


def parse_challenge_mail(raw: bytes, *, require_auto_submitted: bool = True) -> ChallengeMail:
    """Read a challenge mail as it came over the wire, CRLF throughout.

    `require_auto_submitted=False` admits a mail without Auto-Submitted; one that says anything but auto-generated is
    refused all the same. Raises MailRefused with the first fault.
    """
    headers, body = split_message(raw)
    _check_singletons(headers)
    _check_families(headers)
    token_part1 = parse_challenge_subject(headers.exactly_one(b"Subject").value)
    if token_part1 is None:
        raise MailRefused(MailFault.SUBJECT_NOT_CHALLENGE, 'Subject is not "ACME:" and a token')
    auto_submitted = _auto_submitted(headers, require_auto_submitted)
    sender = _address(headers, b"From", MailFault.FROM_MALFORMED)
    recipient = _address(headers, b"To", MailFault.TO_MALFORMED, allow_utf8=True)
    if sender is None or recipient is None:
        raise MissingHeader(b"From or To")  # not reached: REQUIRED_ONCE holds both
    mail = ChallengeMail(
        sender=sender,
        recipient=recipient,
        reply_to=_address(headers, b"Reply-To", MailFault.REPLY_TO_MALFORMED),
        token_part1=token_part1,
        message_id=_message_id(headers),
        references=_ancestors(headers),
        date=_date(headers),
        auto_submitted=auto_submitted,
        headers=headers,
        raw=raw,
    )
    _check_size_and_lines(raw, body)
    return mail


def _check_singletons(headers: Headers) -> None:
    for name in REQUIRED_ONCE:
        headers.exactly_one(name)
    for name in AT_MOST_ONCE:
        headers.at_most_one(name)


def _check_families(headers: Headers) -> None:
    """A list or a forwarder had the mail in its hands: no CA sends these (RFC 3834 §2 lets us ignore such mail)."""
    for name in sorted(headers.names):
        if name.startswith(b"list-"):
            raise MailRefused(MailFault.LIST_HEADER, "a List-* field is present")
        if name.startswith(b"resent-"):
            raise MailRefused(MailFault.RESENT_HEADER, "a Resent-* field is present")


def _auto_submitted(headers: Headers, required: bool) -> str | None:
    # RFC 8823 §3.1 item 5: Auto-Submitted: auto-generated MUST be present; its parameters are never compared.
    found = headers.at_most_one(b"Auto-Submitted")
    if found is None and not required:
        return None
    if found is None:
        detail = "Auto-Submitted is absent (relaxed by require_auto_submitted: false)"
        raise MailRefused(MailFault.NOT_AUTO_GENERATED, detail)
    try:
        keyword = parse_auto_submitted(found.value)
    except InvalidAutoSubmitted as problem:
        raise MailRefused(MailFault.NOT_AUTO_GENERATED, f"Auto-Submitted has {problem}") from None
    if keyword != "auto-generated":
        raise MailRefused(MailFault.NOT_AUTO_GENERATED, "Auto-Submitted is not auto-generated")
    return keyword


def _address(headers: Headers, name: bytes, fault: MailFault, *, allow_utf8: bool = False) -> Mailbox | None:
    found = headers.at_most_one(name)
    if found is None:
        return None
    try:
        return parse_single_address_header(found.value, name.decode("ascii"), allow_utf8=allow_utf8)
    except InvalidMailbox as problem:
        raise MailRefused(fault, str(problem)) from None


def _message_id(headers: Headers) -> bytes | None:
    found = headers.at_most_one(b"Message-ID")
    return None if found is None else parse_message_id(found.value)


def _ancestors(headers: Headers) -> tuple[bytes, ...]:
    # RFC 5322 §3.6.4: the parent's References, or its In-Reply-To when that holds exactly one identifier.
    references = headers.at_most_one(b"References")
    if references is not None:
        return parse_references(references.value)
    parent = headers.at_most_one(b"In-Reply-To")
    found = () if parent is None else parse_references(parent.value)
    return found if len(found) == 1 else ()


def _date(headers: Headers) -> datetime | None:
    found = headers.at_most_one(b"Date")
    if found is None:
        return None
    try:
        return parse_date(found.value)
    except InvalidDate as problem:
        raise MailRefused(MailFault.DATE_MALFORMED, f"Date is {problem}") from None


def _check_size_and_lines(raw: bytes, body: bytes) -> None:
    if len(raw) > MAX_MAIL_OCTETS:
        raise MailRefused(MailFault.TOO_LARGE, f"the mail is larger than {MAX_MAIL_OCTETS} octets")
    lines = raw.split(b"\r\n")
    if max(map(len, lines)) > MAX_LINE_OCTETS:
        raise MailRefused(MailFault.LINE_TOO_LONG, f"a line is longer than {MAX_LINE_OCTETS} octets")
    # Programs disagree where such a line ends, and dkimpy hashes it as if it were CRLF.
    pairs = body.count(b"\r\n")
    if body.count(b"\r") != pairs or body.count(b"\n") != pairs:
        raise MailRefused(MailFault.BARE_NEWLINE, "the body holds a CR or LF on its own")
