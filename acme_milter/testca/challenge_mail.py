# SPDX-License-Identifier: GPL-3.0-or-later
"""The challenge mail of RFC 8823 §3.1, and its deviations that the MAIL_ knobs ask for."""

import base64
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import format_datetime

from acme_milter.testca.chaos import Chaos
from acme_milter.testca.dkim_keys import DkimKeys
from acme_milter.testca.draft import Draft
from acme_milter.testca.pki import Pki
from acme_milter.testca.smime_signing import sign_smime

_BODY = (
    "This is an automatic message of a certification authority. Somebody asked\r\n"
    "for an S/MIME certificate for this mailbox (RFC 8823). Software answers this\r\n"
    "mail. If you did not ask for a certificate, please ignore it.\r\n"
)


@dataclass(frozen=True, slots=True)
class ChallengeLetter:
    """What one challenge mail is made of. `token` is token-part1 as the Subject shows it."""

    sender: str
    recipient: str
    reply_to: str | None
    token: str = field(repr=False)
    message_id: str
    date: datetime


def compose_challenge(letter: ChallengeLetter, keys: DkimKeys, pki: Pki, chaos: Chaos) -> bytes:
    """Return the signed challenge mail as bytes."""
    headers: list[tuple[str, str]] = []
    automatic = {
        "yes": "auto-generated; type=acme",
        "comment": '(made by a robot) Auto-Generated (really); type=acme; note="a;b"',
        "replied": "auto-replied",
    }.get(chaos.word("AUTO_SUBMITTED"))
    if automatic is not None:
        headers.append(("Auto-Submitted", automatic))
    date = _date(letter.date, chaos.word("MAIL_DATE"))
    if date is not None:
        headers.append(("Date", date))
    headers += [("Message-ID", letter.message_id), ("From", letter.sender), ("To", letter.recipient)]
    if letter.reply_to is not None:
        headers.append(("Reply-To", letter.reply_to))
    headers += [
        ("Subject", write_subject(letter.token, chaos.word("MAIL_SUBJECT"))),
        ("MIME-Version", "1.0"),
        ("Content-Type", "text/plain; charset=us-ascii"),
        ("Content-Transfer-Encoding", "7bit"),
    ]
    draft = Draft(tuple(headers), _BODY.encode("ascii"))
    form = chaos.word("SMIME")
    if form != "none":
        draft = sign_smime(draft, pki, form, chaos.word("SMIME_FAULT"), sender=letter.sender, at=letter.date)
    signed = keys.using(chaos.word("DKIM_KEYS")).sign(
        draft, chaos.word("DKIM"), names=chaos.word("DKIM_NAMES"), now=letter.date
    )
    return _topped(signed, chaos.word("MAIL_EXTRA_HEADER")).render()


def write_subject(token: str, form: str) -> str:
    """Write `ACME: token` in one of the forms RFC 8823 §3.1 item 1 allows (or, latin1 and re, forbids)."""
    half = len(token) // 2
    if form == "folded":
        return f"ACME:\r\n {token[:half]}\r\n {token[half:]}"
    if form == "q":
        return f"=?UTF-8?Q?ACME:_{_quoted(token[:half])}=20{_quoted(token[half:])}?="
    if form == "b":
        return f"=?utf-8?B?{base64.b64encode(f'ACME: {token}'.encode()).decode()}?="
    if form == "split":
        return f"=?US-ASCII?Q?ACME:_{_quoted(token[:half])}?=\r\n =?utf-8?b?{_b64(token[half:])}?="
    if form == "latin1":
        return f"=?ISO-8859-1?Q?ACME:_{_quoted(token)}?="
    return f"Re: ACME: {token}" if form == "re" else f"ACME: {token}"


def _quoted(text: str) -> str:
    return text.replace("=", "=3D").replace("_", "=5F")


def _b64(text: str) -> str:
    return base64.b64encode(text.encode("ascii")).decode("ascii")


def _date(now: datetime, form: str) -> str | None:
    shifted = {"now": timedelta(), "old": timedelta(days=-3), "future": timedelta(days=3)}.get(form)
    if shifted is not None:
        return format_datetime(now + shifted)
    return None if form == "absent" else "the day before yesterday"


def _topped(draft: Draft, extra: str) -> Draft:
    """Add a header above the signed ones: DKIM covers only the bottom-most instance (RFC 6376 §5.4.2)."""
    headers = {
        "second-subject": ("Subject", "ACME: c29tZWJvZHkgZWxzZSdzIHRva2VuIGhlcmUu"),
        "second-from": ("From", "ceo@attacker.example"),
        "second-to": ("To", "somebody.else@attacker.example"),
        "second-message-id": ("Message-ID", "<other@attacker.example>"),
        "list-id": ("List-Id", "a list <list.attacker.example>"),
        "reply-to": ("Reply-To", "thief@attacker.example"),
        "sender": ("Sender", "somebody.else@attacker.example"),
    }
    return draft if extra == "none" else draft.on_top(*headers[extra])
