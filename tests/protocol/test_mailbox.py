# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses: what the strict grammar lets in, and every disguise it keeps out."""

import time

import pytest

from acme_milter.protocol.mailbox import InvalidMailbox, Mailbox, canonical_domain, parse_single_address_header


@pytest.mark.parametrize(
    ("text", "local", "domain"),
    [
        ("alice@org.example", "alice", "org.example"),
        ("Alice@ORG.Example", "Alice", "org.example"),
        ("acme-challenge+2i211oi1204310@example.com", "acme-challenge+2i211oi1204310", "example.com"),
        ("a.b.c@x-y.example", "a.b.c", "x-y.example"),
        ("!#$%&'*+-/=?^_`{|}~@example.org", "!#$%&'*+-/=?^_`{|}~", "example.org"),
        ("x@xn--mnchen-3ya.example", "x", "xn--mnchen-3ya.example"),
        ("a" * 64 + "@example.org", "a" * 64, "example.org"),
    ],
)
def test_plain_address_is_read_exactly(text: str, local: str, domain: str) -> None:
    assert Mailbox.parse(text) == Mailbox(local, domain)
    assert Mailbox.parse(text.encode()) == Mailbox(local, domain)
    assert str(Mailbox.parse(text)) == f"{local}@{domain}"


ADDRESS_DISGUISES = [
    "",
    "@",
    "a@",
    "@b.example",
    "a",
    "a@b",
    "a@@b.example",
    "a@b@c.example",
    "a b@c.example",
    " a@b.example",
    "a@b.example ",
    "a@b.example.",
    "a@.b.example",
    "a@b..example",
    ".a@b.example",
    "a.@b.example",
    "a..b@c.example",
    '"a"@b.example',
    '"a b"@c.example',
    "a@[192.0.2.1]",
    "a@192.0.2.1",
    "a@-b.example",
    "a@b-.example",
    "a@b_c.example",
    "a@b.example\n",
    "a\r\nBcc:x@b.example",
    "a@b.example\0",
    "a\0@b.example",
    "a(c)@b.example",
    "a@(c)b.example",
    "a<b@c.example",
    "a>b@c.example",
    "a,b@c.example",
    "a;b@c.example",
    "a:b@c.example",
    "a\\b@c.example",
    "@r.example:a@b.example",
    "a@b.example,c@d.example",
    "a%@b.example\t",
    "a" * 65 + "@b.example",
    "a@" + "b" * 64 + ".example",
    "a@" + "b." * 130 + "example",
    "ü@b.example",
    "a@ü.example",
    "a@exam\u200bple.org",
    "a\u00a0@b.example",
    "a@example。org",
]


@pytest.mark.parametrize("text", ADDRESS_DISGUISES, ids=ascii)
def test_anything_but_a_dot_atom_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidMailbox):
        Mailbox.parse(text)


def test_non_ascii_address_needs_the_flag() -> None:
    mailbox = Mailbox.parse("jürgen@MÜNCHEN.example", allow_utf8=True)
    assert mailbox == Mailbox("jürgen", "xn--mnchen-3ya.example")
    assert not mailbox.is_ascii
    assert Mailbox.parse("x@münchen.example", allow_utf8=True).is_ascii
    with pytest.raises(InvalidMailbox):
        Mailbox.parse("jürgen@example.org".encode("latin-1"), allow_utf8=True)


@pytest.mark.parametrize(
    "char", ["\u200b", "\u202e", "\u00a0", "\u2028", "\ue000", "\ud800", "\ufeff", "\u0085"], ids=ascii
)
def test_invisible_characters_are_refused_even_with_the_flag(char: str) -> None:
    with pytest.raises(InvalidMailbox):
        Mailbox.parse(f"a{char}b@example.org", allow_utf8=True)
    with pytest.raises(InvalidMailbox):
        Mailbox(f"a{char}b", "example.org")


@pytest.mark.parametrize(
    ("local", "domain"), [("a\r\n", "b.example"), ("a", "B.example"), ("a b", "b.example"), ("a", "münchen.example")]
)
def test_a_mailbox_cannot_be_constructed_around_the_grammar(local: str, domain: str) -> None:
    with pytest.raises(InvalidMailbox):
        Mailbox(local, domain)


def test_error_text_never_quotes_the_address() -> None:
    with pytest.raises(InvalidMailbox) as caught:
        parse_single_address_header(b" evil\x1b[31m@b.example", "From")
    assert "evil" not in str(caught.value)
    assert "From" in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        b" acme@ca.example",
        b"acme@ca.example",
        b"\tacme@ca.example  ",
        b" <acme@ca.example>",
        b" ACME CA <acme@ca.example>",
        b' "ACME CA" <acme@ca.example>',
        b" ACME\r\n CA\r\n <acme@ca.example>",
        b" A. C. Me <acme@CA.Example>",
        b' "" <acme@ca.example>',
        b" =?utf-8?q?ACME_CA?= <acme@ca.example>",
        b' "CA; a: b"<acme@ca.example> ',
    ],
)
def test_single_address_with_a_harmless_display_name_is_read(value: bytes) -> None:
    assert parse_single_address_header(value, "From") == Mailbox("acme", "ca.example")


HEADER_DISGUISES = [
    b"",
    b" ",
    b" <>",
    b" acme@ca.example <evil@x.example>",
    b" acme@ca.example)<evil@x.example>",
    b" <acme@ca.example><evil@x.example>",
    b" acme@ca.example, evil@x.example",
    b" <acme@ca.example>, <evil@x.example>",
    b" <acme@ca.example>,",
    b" ,<acme@ca.example>",
    b" CA:acme@ca.example;",
    b" CA: acme@ca.example, evil@x.example;",
    b" undisclosed-recipients:;",
    b" <@relay.example:acme@ca.example>",
    b" <@relay.example,@r2.example:acme@ca.example>",
    b" (comment) acme@ca.example",
    b" acme@ca.example (comment)",
    b" acme(comment)@ca.example",
    b" <acme@ca.example> evil@x.example",
    b" <acme@ca.example> (x)",
    b" <<acme@ca.example>>",
    b' "acme@ca.example" <evil@x.example>',
    b' "a\\"b" <acme@ca.example>',
    b' "a, b" <acme@ca.example>',
    b' "a" "b" <acme@ca.example>',
    b' "unfinished <acme@ca.example>',
    b' a"b" <acme@ca.example>',
    b" <acme @ca.example>",
    b" < acme@ca.example>",
    b" <acme@ca.example >",
    b" <acme@ca.example\r\n >",
    b" acme@ca.\r\n example",
    b' "acme"@ca.example',
    b" acme@ca.example\x00",
    b" acme@ca.example\x00<evil@x.example>",
    b" acme@[192.0.2.1]",
    b" acme@ca.example.",
    b" acme@ca.example;",
    b" <acme@ca.example",
    b" acme@ca.example>",
    b" ACME acme@ca.example",
    b" =?utf-8?q?acme=40ca.example?=",
    b" =?utf-8?q?CA?= =?utf-8?q?=3Cacme=40ca.example=3E?=",
    b" \xc3\xbc <acme@ca.example>",
    b' "\xff" <acme@ca.example>',
    b" acme@ca.example\r\nBcc: evil@x.example",
    b" CA [x] <acme@ca.example>",
    b" CA; <acme@ca.example>",
]


@pytest.mark.parametrize("value", HEADER_DISGUISES, ids=ascii)
def test_address_header_with_more_than_one_reading_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidMailbox):
        parse_single_address_header(value, "From")


def test_display_name_in_utf8_needs_the_flag() -> None:
    value = " Jürgen <jürgen@example.org>".encode()
    assert parse_single_address_header(value, "To", allow_utf8=True) == Mailbox("jürgen", "example.org")
    with pytest.raises(InvalidMailbox):
        parse_single_address_header(value, "To")


@pytest.mark.parametrize(
    "bomb",
    [
        b" " * 60_000 + b"@",
        b"a" * 60_000,
        b"<" * 60_000,
        b'"' * 60_000 + b"<a@b.example>",
        b"\r\n " * 20_000 + b"<a@b.example",
        b"a." * 30_000 + b"@b.example",
        b"a@" + b"b." * 30_000,
        "ü".encode() * 30_000 + b"@" + "ü".encode() * 30_000,
    ],
    ids=lambda bomb: ascii(bomb[:6]),
)
def test_hostile_address_costs_no_time(bomb: bytes) -> None:
    started = time.process_time()
    for allow_utf8 in (False, True):
        with pytest.raises(InvalidMailbox):
            parse_single_address_header(bomb, "From", allow_utf8=allow_utf8)
    with pytest.raises(InvalidMailbox):
        canonical_domain("ü" * 60_000)
    assert time.process_time() - started < 0.05
