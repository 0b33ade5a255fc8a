# SPDX-License-Identifier: GPL-3.0-or-later
"""Hostile mails whose form alone gives them away. Those with a true signature show that DKIM would not have helped."""

from acme_milter.protocol.faults import MailFault
from tests.protocol.mail_case import MailCase
from tests.protocol.sample_mail import SENDER, TOKEN_PART1, SampleMail, SignatureSpec, good_mail

_SIGNED = good_mail().signed


def _topped(line: str) -> bytes:
    """A genuine signed mail with one more line above it."""
    return line.encode() + b"\r\n" + good_mail().signed()


def _changed(old: bytes, new: bytes) -> bytes:
    raw = good_mail().signed()
    assert old in raw
    return raw.replace(old, new, 1)


DUPLICATES = [
    MailCase(
        f"second-{name.lower()}-on-top",
        lambda name=name, value=value, mail=mail: f"{name}: {value}\r\n".encode() + mail.signed(),  # type: ignore[misc] # mypy cannot type a lambda's defaults
        MailFault.DUPLICATE_HEADER,
        dkimpy_accepts=name != "From",
    )
    for name, value in {
        "Subject": f"ACME: {'B' * 43}",
        "From": "evil@x.example",
        "To": "victim@example.org",
        "Date": "Sat, 5 Dec 2020 10:08:55 +0100",
        "Message-ID": "<other@x.example>",
        "Reply-To": "evil@x.example",
        "Sender": "evil@x.example",
        "Cc": "evil@x.example",
        "In-Reply-To": "<other@x.example>",
        "References": "<other@x.example>",
        "Auto-Submitted": "auto-replied",
        "Content-Type": "text/html",
        "Content-Transfer-Encoding": "base64",
        "MIME-Version": "1.1",
    }.items()
    for mail in [good_mail() if name in dict(good_mail().fields) else good_mail().set(name, " <a@ca.example>")]
] + [
    MailCase(
        "second-subject-at-bottom", lambda: _changed(b"\r\n\r\n", b"\r\nSubject: x\r\n\r\n"), MailFault.DUPLICATE_HEADER
    ),
    MailCase(
        "second-subject-in-other-case", lambda: _topped("sUBJECT: x"), MailFault.DUPLICATE_HEADER, dkimpy_accepts=True
    ),
    MailCase("no-subject", lambda: good_mail().drop("Subject").signed(), MailFault.MISSING_HEADER, dkimpy_accepts=True),
    MailCase("no-to", lambda: good_mail().drop("To").signed(), MailFault.MISSING_HEADER, dkimpy_accepts=True),
    MailCase("no-from", lambda: good_mail().drop("From").signed(), MailFault.MISSING_HEADER),
    MailCase("empty-mail", lambda: b"", MailFault.HEADER_SYNTAX),
    MailCase("no-header-at-all", lambda: b"\r\nFrom: a@ca.example\r\n", MailFault.HEADER_SYNTAX),
]

SYNTAX = [
    MailCase(
        "mbox-from-line-on-top",
        lambda: _topped("From acme@ca.example Sat Dec  5 10:08:55 2020"),
        MailFault.HEADER_SYNTAX,
        dkimpy_accepts=True,
    ),
    MailCase(
        "mbox-from-line-inside",
        lambda: _changed(b"\r\nSubject", b"\r\nFrom acme@x.example x\r\nSubject"),
        MailFault.HEADER_SYNTAX,
        dkimpy_accepts=True,
    ),
    MailCase("subject-blank-colon-on-top", lambda: _topped("Subject : x"), MailFault.BLANK_BEFORE_COLON),
    MailCase("from-tab-colon-on-top", lambda: _topped("From\t: evil@x.example"), MailFault.BLANK_BEFORE_COLON),
    MailCase("to-blank-colon-on-top", lambda: _topped("To : evil@x.example"), MailFault.BLANK_BEFORE_COLON),
    MailCase("begins-with-a-blank", lambda: b" " + _SIGNED(), MailFault.HEADER_SYNTAX),
    MailCase("begins-with-a-continuation", lambda: _topped(" continued"), MailFault.HEADER_SYNTAX),
    MailCase("line-without-colon", lambda: _topped("Subject"), MailFault.HEADER_SYNTAX),
    MailCase("field-without-name", lambda: _topped(": x"), MailFault.HEADER_SYNTAX),
    MailCase("field-name-in-utf8", lambda: _topped("Sübject: x"), MailFault.HEADER_SYNTAX),
    MailCase("field-name-with-a-blank", lambda: _topped("X Subject: x"), MailFault.HEADER_SYNTAX),
    MailCase(
        "continuation-of-blanks", lambda: _topped("X-A: 1\r\n \r\n 2"), MailFault.HEADER_SYNTAX, dkimpy_accepts=True
    ),
    MailCase(
        "nul-in-subject", lambda: _changed(b"Subject: ACME:", b"Subject: ACME:\0"), MailFault.HEADER_CONTROL_CHARACTER
    ),
    MailCase(
        "nul-after-from",
        lambda: _changed(f"From: {SENDER}".encode(), f"From: {SENDER}\0@x.example".encode()),
        MailFault.HEADER_CONTROL_CHARACTER,
    ),
    MailCase(
        "escape-sequence-in-x-header",
        lambda: _topped("X-A: \x1b[2J"),
        MailFault.HEADER_CONTROL_CHARACTER,
        dkimpy_accepts=True,
    ),
    MailCase(
        "vertical-tab-fold",
        lambda: _changed(b"Subject: ", b"Subject:\x0b "),
        MailFault.HEADER_CONTROL_CHARACTER,
        dkimpy_accepts=True,
    ),
    MailCase(
        "form-feed-fold",
        lambda: _changed(b"To: ", b"To: \x0c"),
        MailFault.HEADER_CONTROL_CHARACTER,
        dkimpy_accepts=True,
    ),
    MailCase("delete-character", lambda: _topped("X-A: \x7f"), MailFault.HEADER_CONTROL_CHARACTER, dkimpy_accepts=True),
]

NEWLINES = [
    MailCase(
        "bare-lf-hides-a-header", lambda: _topped("X-A: 1\nSubject: x"), MailFault.BARE_NEWLINE, dkimpy_accepts=True
    ),
    MailCase(
        "bare-lf-throughout", lambda: _SIGNED().replace(b"\r\n", b"\n"), MailFault.BARE_NEWLINE, dkimpy_accepts=True
    ),
    MailCase(
        "bare-cr-hides-a-header", lambda: _topped("X-A: 1\rSubject: x"), MailFault.BARE_NEWLINE, dkimpy_accepts=True
    ),
    MailCase("bare-lf-ends-the-header", lambda: _topped("X-A: 1\n\nbody"), MailFault.BARE_NEWLINE),
    MailCase("cr-cr-lf", lambda: _topped("X-A: 1\r"), MailFault.BARE_NEWLINE, dkimpy_accepts=True),
    MailCase(
        "bare-lf-in-body",
        lambda: _SIGNED().replace(b"ACME challenge.\r\n", b"ACME challenge.\n"),
        MailFault.BARE_NEWLINE,
        dkimpy_accepts=True,
    ),
    MailCase(
        "bare-cr-in-signed-body",
        lambda: good_mail().with_body(b"a\rb\r\n").signed(),
        MailFault.BARE_NEWLINE,
        dkimpy_accepts=True,
    ),
    MailCase(
        "smuggled-second-mail", lambda: _SIGNED() + b"\n.\nMAIL FROM:<evil@x.example>\r\n", MailFault.BARE_NEWLINE
    ),
    MailCase(
        "smuggled-by-lf-dot-crlf",
        lambda: good_mail().with_body(b"x\n.\r\nRCPT TO:<a@b.example>\r\n").signed(),
        MailFault.BARE_NEWLINE,
    ),
]

SIZES = [
    MailCase(
        "header-block-over-64k",
        lambda: _topped("X-A: " + "x" * 65_536),
        MailFault.HEADER_BLOCK_TOO_LARGE,
        dkimpy_accepts=True,
    ),
    MailCase(
        "two-hundred-more-headers",
        lambda: _topped("\r\n".join(["X-A: 1"] * 200)),
        MailFault.TOO_MANY_HEADERS,
        dkimpy_accepts=True,
    ),
    MailCase("endless-header-without-newline", lambda: b"X-A: " + b"x" * 1_000_000, MailFault.HEADER_BLOCK_TOO_LARGE),
    MailCase(
        "mail-over-256k",
        lambda: good_mail().with_body(b"0123456789\r\n" * 22_000).signed(),
        MailFault.TOO_LARGE,
        dkimpy_accepts=True,
    ),
    MailCase(
        "line-over-2000-in-body",
        lambda: good_mail().with_body(b"x" * 2_001 + b"\r\n").signed(),
        MailFault.LINE_TOO_LONG,
        dkimpy_accepts=True,
    ),
    MailCase(
        "line-over-2000-in-header", lambda: _topped("X-A: " + "x" * 2_000), MailFault.LINE_TOO_LONG, dkimpy_accepts=True
    ),
    MailCase(
        "blank-bomb-in-body", lambda: good_mail().with_body(b" " * 60_000 + b"!\r\n").signed(), MailFault.LINE_TOO_LONG
    ),
    MailCase(
        "tab-bomb-in-body", lambda: good_mail().with_body(b"\t" * 60_000 + b"!\r\n").signed(), MailFault.LINE_TOO_LONG
    ),
    MailCase(
        "blank-bomb-in-subject",
        lambda: good_mail().set("Subject", " ACME:" + " " * 60_000 + "!").raw(),
        MailFault.SUBJECT_NOT_CHALLENGE,
    ),
    MailCase(
        "fold-bomb-in-subject",
        lambda: good_mail().set("Subject", " ACME:" + "\r\n x" * 15_000).raw(),
        MailFault.SUBJECT_NOT_CHALLENGE,
    ),
    MailCase(
        "encoded-word-bomb-in-subject",
        lambda: good_mail().set("Subject", " =?utf-8?q?a?=" * 4_000).raw(),
        MailFault.SUBJECT_NOT_CHALLENGE,
    ),
    MailCase(
        "comment-bomb-in-auto-submitted",
        lambda: good_mail().set("Auto-Submitted", "(" * 60_000).raw(),
        MailFault.NOT_AUTO_GENERATED,
    ),
    MailCase("quote-bomb-in-from", lambda: good_mail().set("From", '"' * 60_000).raw(), MailFault.FROM_MALFORMED),
]


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
        f"{field.lower()}-{name}", lambda: _padded(good_mail().set(field, value)), fault, dkimpy_accepts=True
    )


def _padded(mail: SampleMail) -> bytes:
    return mail.signed(SignatureSpec())


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

HOSTILE_HEADERS = [*DUPLICATES, *SYNTAX, *NEWLINES, *SIZES, *SUBJECTS, *ADDRESSES, *HANDLING, *WRAPPED]
