# SPDX-License-Identifier: GPL-3.0-or-later
"""Hostile mails whose signature covers too little, is of another time, or was made for another text."""

from datetime import timedelta

from acme_milter.protocol.dkim_policy import HeaderCoverage
from acme_milter.protocol.faults import MailFault
from tests.protocol.hostile_dkim import tagged
from tests.protocol.mail_case import MailCase
from tests.protocol.sample_mail import (
    STRICT_NAMES,
    SampleKey,
    SignatureSpec,
    changed_after_signing,
    ed25519_key,
    good_mail,
    names_without,
    rsa_key,
    seconds_from_now,
)

DAY = 86_400


_WITH_ALL = (
    good_mail()
    .set("Reply-To", " a@ca.example")
    .set("Sender", " a@ca.example")
    .set("Cc", " a@ca.example")
    .set("In-Reply-To", " <a@ca.example>")
    .set("References", " <a@ca.example>")
    .set("Content-Transfer-Encoding", " 7bit")
)

COVERAGE = [
    *(
        MailCase(
            f"h-lacks-{name.lower()}",
            lambda name=name: good_mail().signed(SignatureSpec(names=names_without(name))),  # type: ignore[misc] # mypy cannot type a lambda's defaults
            MailFault.DKIM_COVERAGE,
            dkimpy_accepts=True,
        )
        for name in STRICT_NAMES[1:]
    ),
    *(
        MailCase(
            f"h-lacks-{name.lower()}-that-is-present",
            lambda name=name: _WITH_ALL.signed(SignatureSpec(names=names_without(name))),  # type: ignore[misc] # mypy cannot type a lambda's defaults
            MailFault.DKIM_COVERAGE,
            coverage=HeaderCoverage.PRESENT,
            dkimpy_accepts=True,
        )
        for name in STRICT_NAMES[1:]
    ),
    MailCase(
        "reply-to-added-after-signing",
        lambda: b"Reply-To: evil@x.example\r\n" + good_mail().signed(SignatureSpec(names=names_without("Reply-To"))),
        MailFault.DKIM_COVERAGE,
        coverage=HeaderCoverage.PRESENT,
        dkimpy_accepts=True,
    ),
    MailCase(
        "content-type-added-after-signing",
        lambda: (
            b"Content-Type: text/html\r\n"
            + good_mail().drop("Content-Type").signed(SignatureSpec(names=names_without("Content-Type")))
        ),
        MailFault.DKIM_COVERAGE,
        coverage=HeaderCoverage.PRESENT,
        dkimpy_accepts=True,
    ),
    MailCase(
        "only-from-signed",
        lambda: good_mail().signed(SignatureSpec(names=("From",))),
        MailFault.DKIM_COVERAGE,
        coverage=HeaderCoverage.PRESENT,
        dkimpy_accepts=True,
    ),
]

_OLD_DATE = " Sat, 5 Dec 2020 10:08:55 +0100"

TIMES = [
    tagged("t-ten-minutes-ahead", MailFault.DKIM_TIME, t=seconds_from_now(600)),
    tagged("t-nine-hours-ahead", MailFault.DKIM_TIME, t=seconds_from_now(9 * 3_600)),
    tagged("t-two-days-ahead", MailFault.DKIM_TIME, dkimpy=False, t=seconds_from_now(2 * DAY)),
    tagged("t-before-the-order", MailFault.DKIM_TIME, t=seconds_from_now(-3_600)),
    tagged("t-of-last-year", MailFault.DKIM_TIME, t=seconds_from_now(-365 * DAY)),
    tagged("t-zero", MailFault.DKIM_TIME, t="0"),
    tagged("x-an-hour-past", MailFault.DKIM_TIME, t=None, x=seconds_from_now(-3_600)),
    tagged("x-a-day-past", MailFault.DKIM_TIME, dkimpy=False, t=None, x=seconds_from_now(-DAY)),
    tagged("x-equal-to-t", MailFault.DKIM_TIME, x=seconds_from_now(0)),
    tagged("x-before-t", MailFault.DKIM_TIME, dkimpy=False, x=seconds_from_now(-10)),
    MailCase(
        "x-past-when-it-arrives",
        lambda: good_mail().signed(SignatureSpec(tags={"x": seconds_from_now(600)})),
        MailFault.DKIM_TIME,
        arrives=timedelta(hours=1),
        dkimpy_accepts=True,
    ),
    MailCase(
        "old-date-fresh-t",
        lambda: good_mail().set("Date", _OLD_DATE).signed(),
        MailFault.DKIM_TIME,
        dkimpy_accepts=True,
    ),
    MailCase(
        "old-date-no-t",
        lambda: good_mail().set("Date", _OLD_DATE).signed(SignatureSpec(tags={"t": None})),
        MailFault.DKIM_TIME,
        dkimpy_accepts=True,
    ),
]

TAMPERED = [
    MailCase("body-changed", lambda: changed_after_signing(b"automatically", b"manually"), MailFault.DKIM_SIGNATURE),
    MailCase("body-appended", lambda: good_mail().signed() + b"footer\r\n", MailFault.DKIM_SIGNATURE),
    MailCase(
        "body-emptied", lambda: good_mail().signed().partition(b"\r\n\r\n")[0] + b"\r\n\r\n", MailFault.DKIM_SIGNATURE
    ),
    MailCase("token-changed", lambda: changed_after_signing(b"ACME: Lg", b"ACME: Mg"), MailFault.DKIM_SIGNATURE),
    MailCase("to-changed", lambda: changed_after_signing(b"To: alexey", b"To: victim"), MailFault.DKIM_SIGNATURE),
    MailCase(
        "from-local-part-changed", lambda: changed_after_signing(b"From: acme", b"From: evil"), MailFault.DKIM_SIGNATURE
    ),
    MailCase(
        "reply-to-added-though-signed-as-absent",
        lambda: b"Reply-To: evil@x.example\r\n" + good_mail().signed(),
        MailFault.DKIM_SIGNATURE,
    ),
    MailCase(
        "content-type-changed", lambda: changed_after_signing(b"text/plain", b"text/html"), MailFault.DKIM_SIGNATURE
    ),
    MailCase("message-id-changed", lambda: changed_after_signing(b"A2299BB", b"B2299BB"), MailFault.DKIM_SIGNATURE),
    MailCase("b-of-zeros", lambda: good_mail().signed(SignatureSpec(tags={"b": "A" * 344})), MailFault.DKIM_SIGNATURE),
    MailCase(
        "bh-of-zeros", lambda: good_mail().signed(SignatureSpec(tags={"bh": "A" * 43 + "="})), MailFault.DKIM_SIGNATURE
    ),
    MailCase(
        "h-changed-after-signing",
        lambda: changed_after_signing(b"h=From:Sender", b"h=From:Sender:X-A"),
        MailFault.DKIM_SIGNATURE,
    ),
    MailCase(
        "t-changed-after-signing",
        lambda: changed_after_signing(f"t={seconds_from_now(0)}".encode(), f"t={seconds_from_now(1)}".encode()),
        MailFault.DKIM_SIGNATURE,
    ),
    MailCase(
        "ed25519-body-changed",
        lambda: good_mail().signed(SignatureSpec(key=ed25519_key())).replace(b"automatically", b"manually"),
        MailFault.DKIM_SIGNATURE,
    ),
    MailCase(
        "signed-by-another-key",
        lambda: good_mail().signed(SignatureSpec(key=SampleKey("rsa", rsa_key("other").private))),
        MailFault.DKIM_SIGNATURE,
    ),
    MailCase(
        "simple-header-form-refolded",
        lambda: (
            good_mail()
            .signed(SignatureSpec(canonicalization="simple/simple"))
            .replace(b"Subject: ACME:", b"Subject:  ACME:")
        ),
        MailFault.DKIM_SIGNATURE,
    ),
    MailCase(
        "two-signatures-both-broken",
        lambda: good_mail().signed(SignatureSpec(), SignatureSpec(key=ed25519_key())) + b"x\r\n",
        MailFault.DKIM_SIGNATURE,
    ),
]

HOSTILE_COVERAGE = [*COVERAGE, *TIMES, *TAMPERED]
