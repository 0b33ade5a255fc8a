# SPDX-License-Identifier: GPL-3.0-or-later
"""Which mails may be put off when they cannot be judged now (rule T): only what looks like nothing but a challenge."""

import re

from acme_milter.protocol.challenge_mail import parse_challenge_mail
from acme_milter.protocol.dkim_policy import candidate_signatures
from acme_milter.protocol.faults import MailRefused
from acme_milter.protocol.smime_structure import looks_signed

# A token of one piece. RFC 8823 §3.1 item 1 allows white space inside it, and so "ACME: your order has been shipped"
# has the form of a challenge; but blanks come into a token by folding and encoding, not by writing them.
_ONE_PIECE = re.compile(rb"[ \t]*ACME:[ \t]+[A-Za-z0-9_-]+={0,2}[ \t]*")
_FOLD = re.compile(rb"\r\n[ \t]+")


def may_be_put_off(raw: bytes, *, smime: bool = False) -> bool:
    """Whether a mail could be proven a challenge once it can be judged: its form is right, its Subject is no prose,
    and a signature of the sender's own domain is there. Ordinary mail never is, so it never waits.

    `smime`: an authority that the mailbox has to do with may prove its mails by S/MIME instead.
    """
    try:
        mail = parse_challenge_mail(raw, require_auto_submitted=False)
        if not (smime and looks_signed(mail.headers)):
            candidate_signatures(mail.headers, mail.sender.domain)
        subject = mail.headers.exactly_one(b"Subject").value
    except MailRefused:
        return False
    whole = re.sub(rb"ACME:\r\n[ \t]+", b"ACME: ", subject)
    return b"=?" in subject or _ONE_PIECE.fullmatch(_FOLD.sub(b"", whole)) is not None
