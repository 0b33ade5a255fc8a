# SPDX-License-Identifier: GPL-3.0-or-later
"""The reply to a challenge mail as a byte template (RFC 8823 §3.2).

Nothing of the challenge mail enters it but values that passed a strict ASCII grammar: the token, two addresses and
message identifiers. There is no mail library here that could fold, encode or "repair" a line.
"""

import re
from dataclasses import dataclass, field
from datetime import datetime

from acme_milter.protocol.challenge_mail import ChallengeMail
from acme_milter.protocol.mail_date import format_date
from acme_milter.protocol.mailbox import Mailbox
from acme_milter.protocol.message_id import parse_message_id

_DIGEST = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class ReplyMail:
    """A reply ready to be signed and sent: envelope sender and recipient, the octets, and its own Message-ID."""

    sender: Mailbox
    recipient: Mailbox
    raw: bytes = field(repr=False)
    message_id: str

    @property
    def needs_smtputf8(self) -> bool:
        """Whether MAIL FROM needs SMTPUTF8, because the identifier has a non-ASCII local part (RFC 6531)."""
        return not (self.sender.is_ascii and self.recipient.is_ascii)


def compose_reply(
    challenge: ChallengeMail,
    *,
    identifier: Mailbox,
    digest: str,
    message_id: str,
    date: datetime,
    auto_submitted: bool = True,
) -> ReplyMail:
    """Compose the one reply to `challenge`.

    `identifier` is the order's address exactly as ordered, `digest` the 43 characters of the response digest,
    `message_id` the reply's own, with or without angle brackets, `date` aware. To is Reply-To when the challenge
    has one, else its From (§3.2 item 3). Raises ValueError when digest, message_id or date is not of its form.
    """
    if not _DIGEST.fullmatch(digest):
        raise ValueError("the digest is not 43 characters of base64url")
    if date.tzinfo is None:
        raise ValueError("the date is not aware")
    own_id = _bracketed(message_id)
    recipient = challenge.reply_to or challenge.sender
    lines = [
        f"Date: {format_date(date)}",
        f"From: {identifier}",
        f"To: {recipient}",
        # Never folded nor encoded: some authorities look for this text in the raw header (§3.2 item 1).
        f"Subject: Re: ACME: {challenge.token_part1.text}",
        f"Message-ID: {own_id}",
        *_thread(challenge),
        # RFC 3834 §5.2: auto-generated must not be used on a response.
        *(["Auto-Submitted: auto-replied"] if auto_submitted else []),
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=us-ascii",
        "Content-Transfer-Encoding: 7bit",
        "",
        "-----BEGIN ACME RESPONSE-----",
        digest,
        "-----END ACME RESPONSE-----",
        "",
    ]
    return ReplyMail(identifier, recipient, "\r\n".join(lines).encode("utf-8"), own_id)


def _bracketed(message_id: str) -> str:
    wanted = message_id if message_id.startswith("<") else f"<{message_id}>"
    try:
        checked = parse_message_id(wanted.encode("ascii"))
    except UnicodeEncodeError:
        checked = None
    if checked is None or checked.decode("ascii") != wanted:
        raise ValueError("the message identifier is not of the form <left@right>")
    return wanted


def _thread(challenge: ChallengeMail) -> list[str]:
    """In-Reply-To and References as they came (§3.2 item 5); without a usable Message-ID, neither."""
    if challenge.message_id is None:
        return []
    parent = challenge.message_id.decode("ascii")
    ancestors = [identifier.decode("ascii") for identifier in challenge.references]
    return [f"In-Reply-To: {parent}", "References: " + "\r\n ".join([*ancestors, parent])]
