# SPDX-License-Identifier: GPL-3.0-or-later
"""Which mails may wait (rule T), and that prose about ACME is none of them."""

import pytest

from acme_milter.protocol.doubt import may_be_put_off

TOKEN = b"LgYemJLy3F1LDkiJrdIGbEzyFJyOyf6vBdyZ1TG3sME"
SIGNATURE = (
    b"DKIM-Signature: v=1; a=rsa-sha256; d=%s; s=s; h=from:to:subject; bh=" + b"A" * 43 + b"=; b=" + b"A" * 342 + b"=="
)


def mail(subject: bytes, *, signed_by: bytes | None = b"ca.example") -> bytes:
    lines = [b"From: acme@ca.example", b"To: alice@org.example", b"Subject:" + subject]
    if signed_by is not None:
        lines.insert(0, SIGNATURE % signed_by)
    return b"\r\n".join(lines) + b"\r\n\r\nbody\r\n"


@pytest.mark.parametrize(
    "subject",
    [
        b" ACME: " + TOKEN,
        b" ACME: " + TOKEN + b"=",
        b" ACME:\r\n " + TOKEN,
        b" ACME: " + TOKEN[:20] + b"\r\n\t" + TOKEN[20:],
        b" =?UTF-8?Q?ACME:_LgYemJLy3F1LDki=20JrdIGbEzyFJyOyf=20=206vBdyZ1TG3sME=3D?=",
    ],
)
def test_a_signed_mail_with_a_token_of_one_piece_may_wait(subject: bytes) -> None:
    assert may_be_put_off(mail(subject))


@pytest.mark.parametrize(
    "subject",
    [
        b" ACME: Invoice 2026-10-01 is now ready",
        b" ACME: please call me back about the invoice tomorrow",
        b" ACME: Your order has been shipped",
        b" ACME: new prices from January on",
        b" lunch",
    ],
)
def test_prose_never_waits(subject: bytes) -> None:
    assert not may_be_put_off(mail(subject))


@pytest.mark.parametrize("signer", [None, b"evil.example", b"mail.ca.example"])
def test_a_mail_that_no_signature_could_prove_never_waits(signer: bytes | None) -> None:
    assert not may_be_put_off(mail(b" ACME: " + TOKEN, signed_by=signer))


def test_noise_never_waits() -> None:
    assert not may_be_put_off(b"")
    assert not may_be_put_off(b"\x00\xff noise")
