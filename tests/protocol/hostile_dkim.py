# SPDX-License-Identifier: GPL-3.0-or-later
"""Hostile mails of good form whose signature proves nothing, or not what is needed."""

from datetime import timedelta

from acme_milter.protocol.dkim_policy import HeaderCoverage
from acme_milter.protocol.faults import MailFault
from tests.protocol.mail_case import MailCase
from tests.protocol.sample_mail import (
    NOW,
    STRICT_NAMES,
    SampleKey,
    SampleMail,
    SignatureSpec,
    ed25519_key,
    good_mail,
    good_zone,
    rsa_key,
)

DAY = 86_400


def _seconds(offset: int) -> str:
    return str(int(NOW.timestamp()) + offset)


def _tagged(
    name: str, fault: MailFault, *, dkimpy: bool = True, mail: SampleMail | None = None, **tags: str | None
) -> MailCase:
    """A mail truly signed by the CA's key with these tags."""
    return MailCase(name, lambda: (mail or good_mail()).signed(SignatureSpec(tags=tags)), fault, dkimpy_accepts=dkimpy)


def _without(*names: str) -> tuple[str, ...]:
    return tuple(name for name in STRICT_NAMES if name not in names)


def _after(old: bytes, new: bytes) -> bytes:
    """The good mail, changed after it was signed."""
    raw = good_mail().signed()
    assert old in raw
    return raw.replace(old, new, 1)


ABSENT = [
    MailCase("unsigned", lambda: good_mail().raw(), MailFault.DKIM_NONE),
    MailCase(
        "unsigned-with-forged-authentication-results",
        lambda: good_mail().top("Authentication-Results", " mx.example.com; dkim=pass header.d=ca.example").raw(),
        MailFault.DKIM_NONE,
    ),
    MailCase(
        "unsigned-with-forged-arc",
        lambda: (
            good_mail()
            .top("ARC-Authentication-Results", " i=1; mx.example.com; dkim=pass")
            .top("ARC-Seal", " i=1; cv=none; b=AAAA")
            .raw()
        ),
        MailFault.DKIM_NONE,
    ),
    MailCase("unsigned-with-received-spf", lambda: good_mail().top("Received-SPF", " pass").raw(), MailFault.DKIM_NONE),
    MailCase(
        "unsigned-with-domainkey-signature",
        lambda: good_mail().top("DomainKey-Signature", " a=rsa-sha1; b=AAAA").raw(),
        MailFault.DKIM_NONE,
    ),
    MailCase("signature-in-x-header-only", lambda: b"X-" + good_mail().signed(), MailFault.DKIM_NONE),
    MailCase(
        "signature-in-the-body-only", lambda: good_mail().with_body(good_mail().signed()).raw(), MailFault.DKIM_NONE
    ),
]


def _domain(name: str, domain: str, fault: MailFault = MailFault.DKIM_DOMAIN, *, dkimpy: bool = True) -> MailCase:
    """Truly signed for another domain, whose key is published."""
    return MailCase(
        f"d-{name}",
        lambda: good_mail().signed(SignatureSpec(domain=domain)),
        fault,
        zone=lambda: good_zone(domain.lower().rstrip(".")),
        dkimpy_accepts=dkimpy,
    )


DOMAINS = [
    _domain("parent", "example"),
    _domain("subdomain", "mail.ca.example"),
    _domain("sibling", "cb.example"),
    _domain("attacker", "evil.example"),
    _domain("suffix", "evilca.example"),
    _domain("prefix", "ca.example.evil.example"),
    _domain("trailing-dot", "ca.example."),
    _domain("look-alike-digit", "c4.example"),
    _domain("look-alike-cyrillic", "xn--c-7sb.example"),
    _domain("parenthesis", "ca.example(.evil.example", dkimpy=False),
    _domain("comma", "ca.example,evil.example", dkimpy=False),
    _domain("blank-inside", "ca. example"),
    _domain("empty", "", dkimpy=False),
    _domain("at-sign", "@ca.example", dkimpy=False),
    _domain("underscore", "_ca.example"),
    MailCase(
        "attacker-domain-with-our-ca-in-i",
        lambda: good_mail().signed(SignatureSpec(domain="evil.example", tags={"i": "@ca.example"})),
        MailFault.DKIM_DOMAIN,
        zone=lambda: good_zone("evil.example"),
    ),
    MailCase(
        "four-foreign-signatures",
        lambda: good_mail().signed(*[SignatureSpec(domain=f"d{n}.example") for n in range(4)]),
        MailFault.DKIM_DOMAIN,
        zone=lambda: good_zone("d0.example"),
        dkimpy_accepts=True,
    ),
    MailCase(
        "good-signature-below-three-bad-ones",
        lambda: good_mail().signed(*[SignatureSpec(tags={"b": "A" * 344})] * 3, SignatureSpec()),
        MailFault.DKIM_SIGNATURE,
        dkimpy_accepts=True,
    ),
    MailCase(
        "coverage-of-one-signature-domain-of-another",
        lambda: good_mail().signed(SignatureSpec(names=("From", "To")), SignatureSpec(domain="evil.example")),
        MailFault.DKIM_COVERAGE,
        zone=lambda: good_zone("evil.example"),
        dkimpy_accepts=True,
    ),
]

TAGS = [
    _tagged("v-2", MailFault.DKIM_TAGS, dkimpy=False, v="2"),
    _tagged("v-absent", MailFault.DKIM_TAGS, dkimpy=False, v=None),
    _tagged("v-dkim1", MailFault.DKIM_TAGS, dkimpy=False, v="DKIM1"),
    _tagged("a-rsa-sha1", MailFault.DKIM_ALGORITHM, a="rsa-sha1"),
    _tagged("a-unknown", MailFault.DKIM_ALGORITHM, dkimpy=False, a="rsa-sha512"),
    _tagged("a-upper-case", MailFault.DKIM_ALGORITHM, dkimpy=False, a="RSA-SHA256"),
    _tagged("a-absent", MailFault.DKIM_TAGS, dkimpy=False, a=None),
    _tagged("bh-absent", MailFault.DKIM_TAGS, dkimpy=False, bh=None),
    _tagged("bh-short", MailFault.DKIM_TAGS, dkimpy=False, bh="AAAA"),
    _tagged("bh-not-base64", MailFault.DKIM_TAGS, dkimpy=False, bh="!" * 44),
    _tagged("b-not-base64", MailFault.DKIM_TAGS, dkimpy=False, b="*" * 344),
    _tagged("b-too-short", MailFault.DKIM_TAGS, dkimpy=False, b="AAAA"),
    _tagged("b-too-long", MailFault.DKIM_TAGS, dkimpy=False, b="A" * 1_000),
    _tagged("b-blanks-bomb", MailFault.DKIM_TAGS, dkimpy=False, b="A" + " " * 1_500 + "!"),
    _tagged("s-absent", MailFault.DKIM_TAGS, dkimpy=False, s=None),
    _tagged("s-with-a-slash", MailFault.DKIM_TAGS, dkimpy=False, s="../rsa"),
    _tagged("s-with-a-blank", MailFault.DKIM_TAGS, dkimpy=False, s="rsa x"),
    _tagged("s-too-long", MailFault.DKIM_TAGS, dkimpy=False, s="x" * 64),
    _tagged("d-absent", MailFault.DKIM_DOMAIN, dkimpy=False, d=None),
    _tagged("h-absent", MailFault.DKIM_TAGS, dkimpy=False, h=None),
    _tagged("h-without-from", MailFault.DKIM_TAGS, h=":".join(_without("From")), dkimpy=False),
    _tagged("h-with-empty-name", MailFault.DKIM_TAGS, dkimpy=False, h="From::To"),
    _tagged("h-separated-by-commas", MailFault.DKIM_TAGS, dkimpy=False, h="From,To,Subject"),
    _tagged("q-unknown", MailFault.DKIM_TAGS, dkimpy=False, q="http/well-known"),
    _tagged("c-unknown", MailFault.DKIM_TAGS, dkimpy=False, c="nowsp/relaxed"),
    _tagged("c-three-parts", MailFault.DKIM_TAGS, dkimpy=False, c="relaxed/relaxed/simple"),
    _tagged("i-other-domain", MailFault.DKIM_TAGS, dkimpy=False, i="@evil.example"),
    _tagged("i-suffix-only", MailFault.DKIM_TAGS, dkimpy=False, i="@evilca.example"),
    _tagged("i-without-at", MailFault.DKIM_TAGS, dkimpy=False, i="ca.example"),
    _tagged("t-not-a-number", MailFault.DKIM_TAGS, dkimpy=False, t="soon"),
    _tagged("t-negative", MailFault.DKIM_TAGS, dkimpy=False, t="-1"),
    _tagged("x-not-a-number", MailFault.DKIM_TAGS, dkimpy=False, x="1e12"),
    _tagged("x-forty-digits", MailFault.DKIM_TAGS, x="9" * 40),
    MailCase("tag-twice", lambda: _after(b" v=1;", b" v=1; v=1;"), MailFault.DKIM_TAGS),
    MailCase("tag-without-name", lambda: _after(b" v=1;", b" v=1; =x;"), MailFault.DKIM_TAGS),
    MailCase("tag-without-equals", lambda: _after(b" v=1;", b" v=1; x;"), MailFault.DKIM_TAGS),
    MailCase("tag-empty", lambda: _after(b" v=1;", b" v=1;;"), MailFault.DKIM_TAGS),
    MailCase("tag-name-with-blank", lambda: _after(b" v=1;", b" v=1; t t=1;"), MailFault.DKIM_TAGS),
    MailCase("signature-field-empty", lambda: good_mail().top("DKIM-Signature", " ").raw(), MailFault.DKIM_DOMAIN),
    MailCase(
        "signature-field-of-semicolons",
        lambda: good_mail().top("DKIM-Signature", ";" * 1_900).raw(),
        MailFault.DKIM_TAGS,
    ),
    MailCase(
        "signature-field-of-equals", lambda: good_mail().top("DKIM-Signature", "=" * 1_900).raw(), MailFault.DKIM_TAGS
    ),
]

LENGTHS = [
    MailCase(
        "l-with-appended-body",
        lambda: good_mail().signed(SignatureSpec(body_octets=10)) + b"<html>evil</html>\r\n",
        MailFault.DKIM_LENGTH_TAG,
        dkimpy_accepts=True,
    ),
    MailCase(
        "l-zero",
        lambda: good_mail().signed(SignatureSpec(body_octets=0)),
        MailFault.DKIM_LENGTH_TAG,
        dkimpy_accepts=True,
    ),
    MailCase(
        "l-of-the-whole-body",
        lambda: good_mail().signed(SignatureSpec(body_octets=len(good_mail().body))),
        MailFault.DKIM_LENGTH_TAG,
        dkimpy_accepts=True,
    ),
    _tagged("l-beyond-the-body", MailFault.DKIM_LENGTH_TAG, l="999999"),
    _tagged("l-not-a-number", MailFault.DKIM_LENGTH_TAG, dkimpy=False, l="all"),
]

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
            lambda name=name: good_mail().signed(SignatureSpec(names=_without(name))),  # type: ignore[misc] # mypy cannot type a lambda's defaults
            MailFault.DKIM_COVERAGE,
            dkimpy_accepts=True,
        )
        for name in STRICT_NAMES[1:]
    ),
    *(
        MailCase(
            f"h-lacks-{name.lower()}-that-is-present",
            lambda name=name: _WITH_ALL.signed(SignatureSpec(names=_without(name))),  # type: ignore[misc] # mypy cannot type a lambda's defaults
            MailFault.DKIM_COVERAGE,
            coverage=HeaderCoverage.PRESENT,
            dkimpy_accepts=True,
        )
        for name in STRICT_NAMES[1:]
    ),
    MailCase(
        "reply-to-added-after-signing",
        lambda: b"Reply-To: evil@x.example\r\n" + good_mail().signed(SignatureSpec(names=_without("Reply-To"))),
        MailFault.DKIM_COVERAGE,
        coverage=HeaderCoverage.PRESENT,
        dkimpy_accepts=True,
    ),
    MailCase(
        "content-type-added-after-signing",
        lambda: (
            b"Content-Type: text/html\r\n"
            + good_mail().drop("Content-Type").signed(SignatureSpec(names=_without("Content-Type")))
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
    _tagged("t-ten-minutes-ahead", MailFault.DKIM_TIME, t=_seconds(600)),
    _tagged("t-nine-hours-ahead", MailFault.DKIM_TIME, t=_seconds(9 * 3_600)),
    _tagged("t-two-days-ahead", MailFault.DKIM_TIME, dkimpy=False, t=_seconds(2 * DAY)),
    _tagged("t-before-the-order", MailFault.DKIM_TIME, t=_seconds(-3_600)),
    _tagged("t-of-last-year", MailFault.DKIM_TIME, t=_seconds(-365 * DAY)),
    _tagged("t-zero", MailFault.DKIM_TIME, t="0"),
    _tagged("x-an-hour-past", MailFault.DKIM_TIME, t=None, x=_seconds(-3_600)),
    _tagged("x-a-day-past", MailFault.DKIM_TIME, dkimpy=False, t=None, x=_seconds(-DAY)),
    _tagged("x-equal-to-t", MailFault.DKIM_TIME, x=_seconds(0)),
    _tagged("x-before-t", MailFault.DKIM_TIME, dkimpy=False, x=_seconds(-10)),
    MailCase(
        "x-past-when-it-arrives",
        lambda: good_mail().signed(SignatureSpec(tags={"x": _seconds(600)})),
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
    MailCase("body-changed", lambda: _after(b"automatically", b"manually"), MailFault.DKIM_SIGNATURE),
    MailCase("body-appended", lambda: good_mail().signed() + b"footer\r\n", MailFault.DKIM_SIGNATURE),
    MailCase(
        "body-emptied", lambda: good_mail().signed().partition(b"\r\n\r\n")[0] + b"\r\n\r\n", MailFault.DKIM_SIGNATURE
    ),
    MailCase("token-changed", lambda: _after(b"ACME: Lg", b"ACME: Mg"), MailFault.DKIM_SIGNATURE),
    MailCase("to-changed", lambda: _after(b"To: alexey", b"To: victim"), MailFault.DKIM_SIGNATURE),
    MailCase("from-local-part-changed", lambda: _after(b"From: acme", b"From: evil"), MailFault.DKIM_SIGNATURE),
    MailCase(
        "reply-to-added-though-signed-as-absent",
        lambda: b"Reply-To: evil@x.example\r\n" + good_mail().signed(),
        MailFault.DKIM_SIGNATURE,
    ),
    MailCase("content-type-changed", lambda: _after(b"text/plain", b"text/html"), MailFault.DKIM_SIGNATURE),
    MailCase("message-id-changed", lambda: _after(b"A2299BB", b"B2299BB"), MailFault.DKIM_SIGNATURE),
    MailCase("b-of-zeros", lambda: good_mail().signed(SignatureSpec(tags={"b": "A" * 344})), MailFault.DKIM_SIGNATURE),
    MailCase(
        "bh-of-zeros", lambda: good_mail().signed(SignatureSpec(tags={"bh": "A" * 43 + "="})), MailFault.DKIM_SIGNATURE
    ),
    MailCase(
        "h-changed-after-signing", lambda: _after(b"h=From:Sender", b"h=From:Sender:X-A"), MailFault.DKIM_SIGNATURE
    ),
    MailCase(
        "t-changed-after-signing",
        lambda: _after(f"t={_seconds(0)}".encode(), f"t={_seconds(1)}".encode()),
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


HOSTILE_SIGNATURES = [*ABSENT, *DOMAINS, *TAGS, *LENGTHS, *COVERAGE, *TIMES, *TAMPERED]
