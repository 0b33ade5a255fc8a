# SPDX-License-Identifier: GPL-3.0-or-later
"""The many shapes of a good challenge mail: refusing one would leave a mailbox without a certificate."""

from datetime import timedelta

from acme_milter.protocol.dkim_policy import HeaderCoverage
from tests.protocol.key_server import Misbehaviour
from tests.protocol.mail_case import MailCase
from tests.protocol.sample_mail import (
    CA_DOMAIN,
    NOW,
    SENDER,
    STRICT_NAMES,
    TOKEN_PART1,
    SampleKey,
    SampleMail,
    SignatureSpec,
    ed25519_key,
    good_mail,
    rsa_key,
)
from tests.protocol.test_subject import CHALLENGES

_ED = SignatureSpec(key=ed25519_key())
_BROKEN = SignatureSpec(tags={"b": "A" * 344})
_FOREIGN = SignatureSpec(domain="relay.example")


def _with(name: str, mail: SampleMail, *specs: SignatureSpec) -> MailCase:
    return MailCase(name, lambda: mail.signed(*specs))


def _tagged(name: str, **tags: str | None) -> MailCase:
    return _with(name, good_mail(), SignatureSpec(tags=tags))


def _published(name: str, *records: bytes, spec: SignatureSpec | None = None) -> MailCase:
    signing = spec or SignatureSpec()
    return MailCase(
        name,
        lambda: good_mail().signed(signing),
        zone=lambda: {f"{signing.key.selector}._domainkey.{CA_DOMAIN}": records},
    )


SUBJECTS = [
    _with(f"subject-{name}", good_mail().set("Subject", value))
    for name, value in CHALLENGES.items()
    if name != "no-leading-blank"
]

FORMS = [
    *(
        _with(
            f"c-{form.replace('/', '-')}",
            good_mail().with_body(b"a  b \t\r\n\tc\r\n\r\n\r\n"),
            SignatureSpec(canonicalization=form),
        )
        for form in ("simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed", "simple", "relaxed")
    ),
    *(
        _with(
            f"body-{name}-{form.replace('/', '-')}", good_mail().with_body(body), SignatureSpec(canonicalization=form)
        )
        for form in ("simple/simple", "relaxed/relaxed")
        for name, body in {
            "empty": b"",
            "one-newline": b"\r\n",
            "newlines": b"\r\n" * 50,
            "without-last-newline": b"text",
            "eight-bit": b"\xff\xfe\xc3\xbc\r\n",
            "nul": b"a\0b\r\n",
            "longest-lines": (b"x" * 1_998 + b"\r\n") * 3,
            "large": b"0123456789abcdef\r\n" * 14_000,
            "blank-heavy": (b" " * 998 + b"\r\n") * 200,
        }.items()
    ),
    _with("ed25519", good_mail(), _ED),
    _with("ed25519-simple", good_mail(), SignatureSpec(key=ed25519_key(), canonicalization="simple/simple")),
    _published("rsa-1024", rsa_key("weak", 1024).record(), spec=SignatureSpec(key=rsa_key("weak", 1024))),
    _published("rsa-4096", rsa_key("strong", 4096).record(), spec=SignatureSpec(key=rsa_key("strong", 4096))),
]
SEVERAL = [
    _with("two-signatures", good_mail(), SignatureSpec(), _ED),
    _with("first-signature-bad", good_mail(), _BROKEN, _ED),
    _with("second-signature-bad", good_mail(), _ED, _BROKEN),
    _with("first-signature-bogus-tags", good_mail(), SignatureSpec(tags={"v": "9"}), SignatureSpec()),
    _with("first-signature-with-l", good_mail(), SignatureSpec(body_octets=5), SignatureSpec()),
    _with("first-signature-rsa-sha1", good_mail(), SignatureSpec(tags={"a": "rsa-sha1"}), SignatureSpec()),
    _with("first-signature-covers-little", good_mail(), SignatureSpec(names=("From",)), SignatureSpec()),
    _with("third-signature-good", good_mail(), _BROKEN, _BROKEN, SignatureSpec()),
    _with("foreign-signatures-above", good_mail(), *[_FOREIGN] * 20, SignatureSpec()),
    _with("foreign-signature-below", good_mail(), SignatureSpec(), _FOREIGN),
    MailCase("unreadable-signature-above", lambda: b"DKIM-Signature: \xff;;;\r\n" + good_mail().signed()),
    MailCase(
        "servfail-for-the-other-signature",
        lambda: good_mail().signed(_ED, SignatureSpec()),
        zone=lambda: {f"ed._domainkey.{CA_DOMAIN}": Misbehaviour.SERVFAIL},
    ),
    MailCase(
        "no-key-for-the-other-signature",
        lambda: good_mail().signed(_ED, SignatureSpec()),
        zone=lambda: {f"ed._domainkey.{CA_DOMAIN}": Misbehaviour.NO_DATA},
    ),
]

TAGS = [
    _tagged("t-absent", t=None),
    _tagged("t-slightly-ahead", t=str(int(NOW.timestamp()) + 200)),
    _tagged("x-ahead", x=str(int(NOW.timestamp()) + 3_600)),
    _tagged("i-of-the-domain", i=f"@{CA_DOMAIN}"),
    _tagged("i-below-the-domain", i=f"robot@mail.{CA_DOMAIN}"),
    _tagged("q-stated", q="dns/txt"),
    _tagged("d-in-upper-case", d="CA.Example"),
    _tagged("unknown-tags", zz="whatever", z="Subject:=20x", r="y"),
    _tagged("h-in-lower-case", h=":".join(STRICT_NAMES).lower()),
    _tagged("h-with-blanks", h=" : ".join(STRICT_NAMES)),
    _tagged("h-folded", h=":\r\n\t".join(STRICT_NAMES)),
    _with("h-oversigned", good_mail(), SignatureSpec(names=(*STRICT_NAMES, "From", "To", "Subject", "X-None"))),
    _with(
        "h-with-list-names", good_mail(), SignatureSpec(names=(*STRICT_NAMES, "List-Id", "Resent-From", "MIME-Version"))
    ),
    _with("tags-without-blanks", good_mail(), SignatureSpec(text=";")),
    _with("tags-folded", good_mail(), SignatureSpec(text=";\r\n ")),
    MailCase(
        "x-still-ahead-on-a-late-mail",
        lambda: good_mail().signed(SignatureSpec(tags={"x": str(int(NOW.timestamp()) + 7_200)})),
        arrives=timedelta(hours=1),
    ),
]

HEADERS = [
    _with(
        "display-names", good_mail().set("From", f' "ACME CA" <{SENDER}>').set("To", " Alexey M. <alexey@example.com>")
    ),
    _with("from-domain-in-upper-case", good_mail().set("From", " acme-generator@CA.EXAMPLE")),
    _with("from-folded", good_mail().set("From", f" ACME\r\n <{SENDER}>")),
    _with("unique-sender", good_mail().set("From", " acme-challenge+2i211oi1204310@ca.example")),
    _with("reply-to", good_mail().set("Reply-To", " acme-validator@ca.example")),
    _with("cc-and-sender", good_mail().set("Cc", " audit@ca.example, x@y.example").set("Sender", " robot@ca.example")),
    _with(
        "references",
        good_mail().set("References", " <a@ca.example>\r\n <b@ca.example>").set("In-Reply-To", " <b@ca.example>"),
    ),
    _with("no-message-id", good_mail().drop("Message-ID")),
    _with("odd-message-id", good_mail().set("Message-ID", " not an identifier")),
    _with("no-date", good_mail().drop("Date")),
    _with("date-with-comment", good_mail().set("Date", NOW.strftime(" %d %b %Y %H:%M:%S +0000 (UTC)"))),
    _with("date-in-gmt", good_mail().set("Date", NOW.strftime(" %a, %d %b %Y %H:%M:%S GMT"))),
    _with("no-mime", good_mail().drop("MIME-Version", "Content-Type")),
    _with("auto-submitted-plain", good_mail().set("Auto-Submitted", " auto-generated")),
    _with(
        "auto-submitted-commented", good_mail().set("Auto-Submitted", " (hi) Auto-Generated (there); type=acme; x=y")
    ),
    _with("non-ascii-recipient", good_mail().set("To", " jürgen@münchen.example")),
    _with(
        "multipart",
        good_mail().set("Content-Type", ' multipart/alternative; boundary="b"').with_body(b"--b\r\n\r\nx\r\n--b--\r\n"),
    ),
    _with("token-unpadded", good_mail(TOKEN_PART1.rstrip("="))),
    _with("token-of-16-octets", good_mail("A" * 22)),
    _with("token-of-96-octets", good_mail("A" * 128)),
    MailCase(
        "received-added-on-the-way", lambda: b"Received: from a by b; x\r\nReturn-Path: <>\r\n" + good_mail().signed()
    ),
    MailCase(
        "authentication-results-say-fail", lambda: b"Authentication-Results: mx; dkim=fail\r\n" + good_mail().signed()
    ),
    MailCase(
        "authentication-results-say-pass", lambda: b"Authentication-Results: mx; dkim=pass\r\n" + good_mail().signed()
    ),
    MailCase("arc-set-on-top", lambda: b"ARC-Seal: i=1; cv=fail\r\nReceived-SPF: fail\r\n" + good_mail().signed()),
    MailCase(
        "relaxed-header-refolded-on-the-way",
        lambda: good_mail().signed().replace(b"Subject: ACME: ", b"SUBJECT:\r\n\tACME:  "),
    ),
    MailCase(
        "auto-submitted-absent-where-relaxed",
        lambda: good_mail().drop("Auto-Submitted").signed(),
        require_auto_submitted=False,
    ),
    MailCase(
        "h-of-present-names-where-relaxed",
        lambda: good_mail().signed(
            SignatureSpec(names=("From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "Content-Type"))
        ),
        coverage=HeaderCoverage.PRESENT,
    ),
]

KEYS = [
    _published("key-without-version", rsa_key().record().removeprefix(b"v=DKIM1; ")),
    _published("key-without-kind", rsa_key().record().replace(b"k=rsa; ", b"")),
    _published("key-strict", rsa_key().record("t=s; ")),
    _published("key-hashes", rsa_key().record("h=sha1:sha256; ")),
    _published("key-service-any", rsa_key().record("s=*; ")),
    _published("key-service-email", rsa_key().record("s=tlsrpt : email; ")),
    _published("key-notes-and-unknown-tags", rsa_key().record("n=hello world; zz=1; ")),
    _published("key-trailing-semicolon", rsa_key().record() + b" ; "),
    _published("key-with-blanks-in-p", rsa_key().record()[:80] + b" \t " + rsa_key().record()[80:]),
    _published("key-large-enough-for-tcp", rsa_key().record("n=" + "x" * 2_000 + "; ")),
    _published("key-ed25519", ed25519_key().record(), spec=_ED),
    MailCase(
        "selector-with-dots-and-capitals",
        lambda: good_mail().signed(SignatureSpec(key=SampleKey("K1.Mail_2", rsa_key().private))),
        zone=lambda: {f"k1.mail_2._domainkey.{CA_DOMAIN}": [rsa_key().record()]},
    ),
]

GOOD_MAILS = [MailCase("plain", lambda: good_mail().signed()), *SUBJECTS, *FORMS, *SEVERAL, *TAGS, *HEADERS, *KEYS]
