# SPDX-License-Identifier: GPL-3.0-or-later
"""Hostile mails whose header block or size gives them away: doubled, broken or endless lines."""

from acme_milter.protocol.faults import MailFault
from tests.protocol.mail_case import MailCase
from tests.protocol.sample_mail import SENDER, changed_after_signing, good_mail

_SIGNED = good_mail().signed


def _topped(line: str) -> bytes:
    """A genuine signed mail with one more line above it."""
    return line.encode() + b"\r\n" + good_mail().signed()


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
        "second-subject-at-bottom",
        lambda: changed_after_signing(b"\r\n\r\n", b"\r\nSubject: x\r\n\r\n"),
        MailFault.DUPLICATE_HEADER,
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
        lambda: changed_after_signing(b"\r\nSubject", b"\r\nFrom acme@x.example x\r\nSubject"),
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
        "nul-in-subject",
        lambda: changed_after_signing(b"Subject: ACME:", b"Subject: ACME:\0"),
        MailFault.HEADER_CONTROL_CHARACTER,
    ),
    MailCase(
        "nul-after-from",
        lambda: changed_after_signing(f"From: {SENDER}".encode(), f"From: {SENDER}\0@x.example".encode()),
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
        lambda: changed_after_signing(b"Subject: ", b"Subject:\x0b "),
        MailFault.HEADER_CONTROL_CHARACTER,
        dkimpy_accepts=True,
    ),
    MailCase(
        "form-feed-fold",
        lambda: changed_after_signing(b"To: ", b"To: \x0c"),
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

HOSTILE_HEADERS = [*DUPLICATES, *SYNTAX, *NEWLINES, *SIZES]
