# SPDX-License-Identifier: GPL-3.0-or-later
"""Ordinary mail through a real Postfix: delivered to everybody it was for, byte for byte."""

from collections.abc import Callable

import pytest

from acme_milter.lab.system import Lab

SENDER = "friend@elsewhere.example"


def mail(body: bytes, *headers: bytes) -> bytes:
    fields = [
        b"Date: Sun, 22 Nov 2026 10:00:00 +0000",
        b"From: friend@elsewhere.example",
        b"Message-ID: <1@elsewhere.example>",
        *headers,
    ]
    return b"\r\n".join(fields) + b"\r\n\r\n" + body


def as_stored(raw: bytes) -> bytes:
    return raw.replace(b"\r\n", b"\n")


def arrived_whole(lab: Lab, address: str, raw: bytes) -> bool:
    return any(as_stored(found).endswith(as_stored(raw)) for found in lab.wait_for_mail(address))


ORDINARY = {
    "plain": mail(b"hello\r\n", b"Subject: hello"),
    "8-bit": mail("Grüße ☃\r\n".encode(), b"Subject: hello", b"Content-Type: text/plain; charset=utf-8"),
    "8-bit-header": mail(b"hello\r\n", b"Subject: Gr\xfc\xdfe"),
    "no-subject": mail(b"hello\r\n"),
    "empty-body": mail(b"", b"Subject: nothing"),
    "dots": mail(b".\r\n..\r\n.a\r\n", b"Subject: dots"),
    "long-lines": mail(b"x" * 900 + b"\r\n" + b"y" * 998 + b"\r\n", b"Subject: long"),
    "many-headers": mail(b"hi\r\n", *[b"X-%d: value" % n for n in range(300)], b"Subject: many"),
    "folded-header": mail(b"hi\r\n", b"Subject: folded\r\n\tonce\r\n twice"),
    "two-subjects": mail(b"hi\r\n", b"Subject: one", b"Subject: two"),
    "speaks-of-acme": mail(b"hi\r\n", b"Subject: about ACME: a question"),
    "reply-to-a-challenge": mail(b"hi\r\n", b"Subject: Re: ACME: LgYemJLy3F1LDkiJrdIGbEzyFJyOyf6vBdyZ1TG3sME"),
    "big": mail(b"0123456789abcdef" * 4 + b"\r\n", b"Subject: big") + (b"z" * 70 + b"\r\n") * 72_000,
}


@pytest.mark.parametrize("name", ORDINARY)
def test_it_arrives_byte_for_byte_in_a_managed_mailbox(lab: Lab, mailbox: str, name: str) -> None:
    lab.send(ORDINARY[name], SENDER, mailbox)
    assert arrived_whole(lab, mailbox, ORDINARY[name])


def test_it_reaches_every_one_of_several_recipients(lab: Lab, fresh: Callable[[], str]) -> None:
    recipients = [fresh(), fresh(), fresh()]
    lab.send(ORDINARY["plain"], SENDER, *recipients)
    assert [arrived_whole(lab, recipient, ORDINARY["plain"]) for recipient in recipients] == [True] * 3


def test_it_reaches_everybody_behind_an_alias(lab: Lab) -> None:
    raw = mail(b"to all of you\r\n", b"Subject: alias")
    lab.send(raw, SENDER, "alias@org.example")
    assert [arrived_whole(lab, f"user{n}@org.example", raw) for n in (0, 1)] == [True, True]


def test_internationalized_mail_arrives(lab: Lab, mailbox: str) -> None:
    raw = mail(b"hi\r\n", "Subject: Grüße".encode(), "X-From: jörg@elsewhere.example".encode())
    lab.send(raw, "jörg@elsewhere.example", mailbox, options=["SMTPUTF8", "BODY=8BITMIME"])
    assert arrived_whole(lab, mailbox, raw)


def test_an_acme_subject_from_nobody_arrives(lab: Lab, mailbox: str) -> None:
    raw = mail(b"hi\r\n", b"Subject: ACME: LgYemJLy3F1LDkiJrdIGbEzyFJyOyf6vBdyZ1TG3sME", b"To: " + mailbox.encode())
    lab.send(raw, SENDER, mailbox)
    assert arrived_whole(lab, mailbox, raw)


def test_a_huge_acme_subject_mail_arrives(lab: Lab, mailbox: str) -> None:
    raw = mail((b"z" * 70 + b"\r\n") * 20_000, b"Subject: ACME: LgYemJLy3F1LDkiJrdIGbEzyFJyOyf6vBdyZ1TG3sME")
    lab.send(raw, SENDER, mailbox)
    assert arrived_whole(lab, mailbox, raw)
