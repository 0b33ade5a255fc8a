# SPDX-License-Identifier: GPL-3.0-or-later
"""Hostile mails of good form whose signature proves nothing, or not what is needed."""

from acme_milter.protocol.faults import MailFault
from tests.protocol.mail_case import MailCase
from tests.protocol.sample_mail import (
    SampleMail,
    SignatureSpec,
    changed_after_signing,
    good_mail,
    good_zone,
    names_without,
)


def tagged(
    name: str, fault: MailFault, *, dkimpy: bool = True, mail: SampleMail | None = None, **tags: str | None
) -> MailCase:
    """A mail truly signed by the CA's key with these tags."""
    return MailCase(name, lambda: (mail or good_mail()).signed(SignatureSpec(tags=tags)), fault, dkimpy_accepts=dkimpy)


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
    tagged("v-2", MailFault.DKIM_TAGS, dkimpy=False, v="2"),
    tagged("v-absent", MailFault.DKIM_TAGS, dkimpy=False, v=None),
    tagged("v-dkim1", MailFault.DKIM_TAGS, dkimpy=False, v="DKIM1"),
    tagged("a-rsa-sha1", MailFault.DKIM_ALGORITHM, a="rsa-sha1"),
    tagged("a-unknown", MailFault.DKIM_ALGORITHM, dkimpy=False, a="rsa-sha512"),
    tagged("a-upper-case", MailFault.DKIM_ALGORITHM, dkimpy=False, a="RSA-SHA256"),
    tagged("a-absent", MailFault.DKIM_TAGS, dkimpy=False, a=None),
    tagged("bh-absent", MailFault.DKIM_TAGS, dkimpy=False, bh=None),
    tagged("bh-short", MailFault.DKIM_TAGS, dkimpy=False, bh="AAAA"),
    tagged("bh-not-base64", MailFault.DKIM_TAGS, dkimpy=False, bh="!" * 44),
    tagged("b-not-base64", MailFault.DKIM_TAGS, dkimpy=False, b="*" * 344),
    tagged("b-too-short", MailFault.DKIM_TAGS, dkimpy=False, b="AAAA"),
    tagged("b-too-long", MailFault.DKIM_TAGS, dkimpy=False, b="A" * 1_000),
    tagged("b-blanks-bomb", MailFault.DKIM_TAGS, dkimpy=False, b="A" + " " * 1_500 + "!"),
    tagged("s-absent", MailFault.DKIM_TAGS, dkimpy=False, s=None),
    tagged("s-with-a-slash", MailFault.DKIM_TAGS, dkimpy=False, s="../rsa"),
    tagged("s-with-a-blank", MailFault.DKIM_TAGS, dkimpy=False, s="rsa x"),
    tagged("s-too-long", MailFault.DKIM_TAGS, dkimpy=False, s="x" * 64),
    tagged("d-absent", MailFault.DKIM_DOMAIN, dkimpy=False, d=None),
    tagged("h-absent", MailFault.DKIM_TAGS, dkimpy=False, h=None),
    tagged("h-without-from", MailFault.DKIM_TAGS, h=":".join(names_without("From")), dkimpy=False),
    tagged("h-with-empty-name", MailFault.DKIM_TAGS, dkimpy=False, h="From::To"),
    tagged("h-separated-by-commas", MailFault.DKIM_TAGS, dkimpy=False, h="From,To,Subject"),
    tagged("q-unknown", MailFault.DKIM_TAGS, dkimpy=False, q="http/well-known"),
    tagged("c-unknown", MailFault.DKIM_TAGS, dkimpy=False, c="nowsp/relaxed"),
    tagged("c-three-parts", MailFault.DKIM_TAGS, dkimpy=False, c="relaxed/relaxed/simple"),
    tagged("i-other-domain", MailFault.DKIM_TAGS, dkimpy=False, i="@evil.example"),
    tagged("i-suffix-only", MailFault.DKIM_TAGS, dkimpy=False, i="@evilca.example"),
    tagged("i-without-at", MailFault.DKIM_TAGS, dkimpy=False, i="ca.example"),
    tagged("t-not-a-number", MailFault.DKIM_TAGS, dkimpy=False, t="soon"),
    tagged("t-negative", MailFault.DKIM_TAGS, dkimpy=False, t="-1"),
    tagged("x-not-a-number", MailFault.DKIM_TAGS, dkimpy=False, x="1e12"),
    tagged("x-forty-digits", MailFault.DKIM_TAGS, x="9" * 40),
    MailCase("tag-twice", lambda: changed_after_signing(b" v=1;", b" v=1; v=1;"), MailFault.DKIM_TAGS),
    MailCase("tag-without-name", lambda: changed_after_signing(b" v=1;", b" v=1; =x;"), MailFault.DKIM_TAGS),
    MailCase("tag-without-equals", lambda: changed_after_signing(b" v=1;", b" v=1; x;"), MailFault.DKIM_TAGS),
    MailCase("tag-empty", lambda: changed_after_signing(b" v=1;", b" v=1;;"), MailFault.DKIM_TAGS),
    MailCase("tag-name-with-blank", lambda: changed_after_signing(b" v=1;", b" v=1; t t=1;"), MailFault.DKIM_TAGS),
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
    tagged("l-beyond-the-body", MailFault.DKIM_LENGTH_TAG, l="999999"),
    tagged("l-not-a-number", MailFault.DKIM_LENGTH_TAG, dkimpy=False, l="all"),
]

HOSTILE_SIGNATURES = [*ABSENT, *DOMAINS, *TAGS, *LENGTHS]
