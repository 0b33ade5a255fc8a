# SPDX-License-Identifier: GPL-3.0-or-later
"""Hostile mails in which one field is wrong. All are truly signed: DKIM alone would not have helped."""

from acme_milter.protocol.faults import MailFault
from tests.protocol.mail_case import MailCase
from tests.protocol.sample_mail import SENDER, TOKEN_PART1, good_mail


def _subject(name: str, value: str) -> MailCase:
    """A truly signed mail of the CA whose Subject is none of ours."""
    return MailCase(
        f"subject-{name}",
        lambda: good_mail().set("Subject", value).signed(),
        MailFault.SUBJECT_NOT_CHALLENGE,
        dkimpy_accepts=True,
    )


SUBJECTS = [
    _subject("reply", f" Re: ACME: {TOKEN_PART1}"),
    _subject("reply-encoded", f" =?utf-8?q?Re:_ACME:_{TOKEN_PART1[:-1]}=3D?="),
    _subject("forward", f" Fwd: ACME: {TOKEN_PART1}"),
    _subject("external-tag", f" [EXT] ACME: {TOKEN_PART1}"),
    _subject("lower-case", f" acme: {TOKEN_PART1}"),
    _subject("trailing-text", f" ACME: {TOKEN_PART1} (automatic)"),
    _subject("trailing-header", f" ACME: {TOKEN_PART1}; Bcc: x@x.example"),
    _subject("without-token", " ACME:"),
    _subject("short-token", " ACME: " + "A" * 20),
    _subject("long-token", " ACME: " + "A" * 132),
    _subject("standard-base64", f" ACME: +{TOKEN_PART1[1:]}"),
    _subject("padding-inside", f" ACME: {TOKEN_PART1[:20]}={TOKEN_PART1[20:]}"),
    _subject("too-much-padding", f" ACME: {TOKEN_PART1}="),
    _subject("injects-bcc", f" =?utf-8?q?ACME:_{TOKEN_PART1[:-1]}=3D=0D=0ABcc:_evil@x.example?="),
    _subject("encoded-nul", f" =?utf-8?q?ACME:_{TOKEN_PART1[:-1]}=3D=00?="),
    _subject("latin-1", f" =?iso-8859-1?q?ACME:_{TOKEN_PART1[:-1]}=3D?="),
    _subject("utf-7", f" =?utf-7?q?ACME:_{TOKEN_PART1[:-1]}=3D?="),
    _subject("iso-2022-jp", f" =?iso-2022-jp?q?ACME:_{TOKEN_PART1[:-1]}=3D?="),
    _subject("half-in-latin-1", f" =?utf-8?q?ACME:_{TOKEN_PART1[:20]}?= =?iso-8859-1?q?{TOKEN_PART1[20:-1]}=3D?="),
    _subject("zero-width-space", f" ACME: {TOKEN_PART1[:20]}\u200b{TOKEN_PART1[20:]}"),
    _subject("fullwidth", f" ＡＣＭＥ: {TOKEN_PART1}"),
    _subject("vacation-answer", f" Out of office: ACME: {TOKEN_PART1}"),
    _subject("bounce", " Undelivered Mail Returned to Sender"),
]


def _address(field: str, name: str, value: str, fault: MailFault) -> MailCase:
    # dkimpy has nothing to say about addresses: every one of these is a true signature of ca.example.
    return MailCase(
        f"{field.lower()}-{name}", lambda: good_mail().set(field, value).signed(), fault, dkimpy_accepts=True
    )


_TWO_FACED = {
    "two-addresses": f" {SENDER}, evil@x.example",
    "address-then-angle": f" {SENDER} <evil@x.example>",
    "parenthesis-then-angle": f" {SENDER})<evil@x.example>",
    "two-angles": f" <{SENDER}><evil@x.example>",
    "quoted-address": f' "{SENDER}" <evil@x.example>',
    "comment": f" {SENDER} (evil@x.example)",
    "comment-inside": " acme-generator(x)@ca.example",
    "group": f" CA:{SENDER};",
    "empty-group": " undisclosed-recipients:;",
    "route": f" <@relay.example:{SENDER}>",
    "quoted-local-part": ' "acme-generator"@ca.example',
    "domain-literal": " acme@[192.0.2.1]",
    "trailing-dot": f" {SENDER}.",
    "folded-inside-the-address": " acme-generator@\r\n ca.example",
    "empty": " ",
    "empty-angle": " <>",
    "display-name-with-comma": f' "CA, evil" <{SENDER}>',
    "encoded-address": " =?utf-8?q?acme-generator=40ca.example?=",
    "full-stop-idna": " acme-generator@ca。example",
}

ADDRESSES = [
    _address(field, name, value, fault)
    for field, fault in (
        ("From", MailFault.FROM_MALFORMED),
        ("To", MailFault.TO_MALFORMED),
        ("Reply-To", MailFault.REPLY_TO_MALFORMED),
    )
    for name, value in _TWO_FACED.items()
] + [
    _address("From", "non-ascii-local-part", " äcme@ca.example", MailFault.FROM_MALFORMED),
    _address("Reply-To", "non-ascii-local-part", " äcme@ca.example", MailFault.REPLY_TO_MALFORMED),
    _address("From", "invisible-character", " acme\u200b-generator@ca.example", MailFault.FROM_MALFORMED),
    _address("To", "right-to-left-override", " a\u202eb@example.com", MailFault.TO_MALFORMED),
]

HANDLING = [
    MailCase(
        "auto-submitted-absent",
        lambda: good_mail().drop("Auto-Submitted").signed(),
        MailFault.NOT_AUTO_GENERATED,
        dkimpy_accepts=True,
    ),
    *(
        MailCase(
            f"auto-submitted-{name}",
            lambda value=value: good_mail().set("Auto-Submitted", value).signed(),  # type: ignore[misc] # mypy cannot type a lambda's defaults
            MailFault.NOT_AUTO_GENERATED,
            dkimpy_accepts=True,
            require_auto_submitted=required,
        )
        for name, value, required in (
            ("replied", " auto-replied", True),
            ("replied-when-relaxed", " auto-replied", False),
            ("no", " no", True),
            ("notified", " auto-notified; owner-email=a@b.example", True),
            ("empty", " ", True),
            ("in-a-comment", " (auto-generated)", True),
            ("two-words", " auto-generated auto-replied", True),
            ("list", " no, auto-generated", True),
        )
    ),
    *(
        MailCase(
            f"{name.lower()}-present",
            lambda name=name: good_mail().top(name, " x").signed(),  # type: ignore[misc] # mypy cannot type a lambda's defaults
            fault,
            dkimpy_accepts=True,
        )
        for name, fault in (
            ("List-Id", MailFault.LIST_HEADER),
            ("List-Unsubscribe", MailFault.LIST_HEADER),
            ("LIST-POST", MailFault.LIST_HEADER),
            ("List-Unknown", MailFault.LIST_HEADER),
            ("Resent-From", MailFault.RESENT_HEADER),
            ("Resent-Message-ID", MailFault.RESENT_HEADER),
            ("RESENT-TO", MailFault.RESENT_HEADER),
        )
    ),
    *(
        MailCase(
            f"date-{name}",
            lambda value=value: good_mail().set("Date", value).signed(),  # type: ignore[misc] # mypy cannot type a lambda's defaults
            MailFault.DATE_MALFORMED,
            dkimpy_accepts=True,
        )
        for name, value in (
            ("empty", " "),
            ("words", " tomorrow"),
            ("two-digit-year", " Sat, 5 Dec 20 10:08:55 +0100"),
            ("no-such-day", " 31 Feb 2026 10:08:55 +0000"),
            ("no-zone", " Sat, 5 Dec 2020 10:08:55"),
            ("injected", " Sat, 5 Dec 2020 10:08:55 +0100\r\n Bcc: x"),
            ("year-zero", " Sat, 5 Dec 0000 10:08:55 +0100"),
        )
    ),
]

# A genuine challenge mail carried inside another: the outer mail is what counts.
WRAPPED = [
    MailCase(
        f"challenge-within-{name}",
        lambda kind=kind, subject=subject: (  # type: ignore[misc] # mypy cannot type a lambda's defaults
            good_mail().set("Subject", subject).set("Content-Type", f" {kind}").with_body(good_mail().signed()).signed()
        ),
        MailFault.SUBJECT_NOT_CHALLENGE,
        dkimpy_accepts=True,
    )
    for name, kind, subject in (
        ("message-rfc822", "message/rfc822", " See attached"),
        ("multipart-mixed", 'multipart/mixed; boundary="b"', " FYI"),
        ("bounce", "multipart/report; report-type=delivery-status", " Delivery Status Notification (Failure)"),
        ("tnef", "application/ms-tnef", " winmail"),
    )
]

HOSTILE_FIELDS = [*SUBJECTS, *ADDRESSES, *HANDLING, *WRAPPED]
