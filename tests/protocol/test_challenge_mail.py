# SPDX-License-Identifier: GPL-3.0-or-later
"""What a ChallengeMail holds, and in which order its faults are reported."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_milter.protocol.challenge_mail import ChallengeMail, parse_challenge_mail
from acme_milter.protocol.faults import MailFault, MailRefused
from acme_milter.protocol.mail_date import InvalidDate, format_date, parse_date
from acme_milter.protocol.mailbox import Mailbox
from acme_milter.protocol.message_id import parse_message_id, parse_references
from tests.protocol.sample_mail import NOW, RECIPIENT, SENDER, TOKEN_PART1, SampleMail, good_mail, signed_challenge_mail


def test_every_part_of_the_mail_is_read() -> None:
    raw = good_mail().set("Reply-To", " acme-validator@ca.example").set("References", " <x@ca.example>").raw()
    mail = parse_challenge_mail(raw)
    assert (mail.sender, mail.recipient) == (Mailbox.parse(SENDER), Mailbox.parse(RECIPIENT))
    assert mail.reply_to == Mailbox("acme-validator", "ca.example")
    assert mail.token_part1.text == TOKEN_PART1
    assert (mail.message_id, mail.references) == (b"<A2299BB.FF7788@ca.example>", (b"<x@ca.example>",))
    assert (mail.date, mail.auto_submitted, mail.raw) == (NOW, "auto-generated", raw)


def test_absent_fields_are_none() -> None:
    mail = parse_challenge_mail(
        good_mail().drop("Date", "Message-ID", "Auto-Submitted").raw(), require_auto_submitted=False
    )
    assert (mail.date, mail.message_id, mail.references, mail.reply_to, mail.auto_submitted) == (
        None,
        None,
        (),
        None,
        None,
    )


def test_token_and_raw_mail_are_never_shown() -> None:
    assert TOKEN_PART1[:8] not in repr(parse_challenge_mail(signed_challenge_mail()))


@pytest.mark.parametrize(
    ("references", "in_reply_to", "expected"),
    [
        (None, None, ()),
        (" <a@x> <b@y>", None, (b"<a@x>", b"<b@y>")),
        (" <a@x>\r\n\t<b@y>", " <c@z>", (b"<a@x>", b"<b@y>")),
        (None, " <c@z>", (b"<c@z>",)),
        (None, " <c@z> <d@z>", ()),
        (" broken <a@x>", " <c@z>", ()),
        (" <a@x><b@y>", None, ()),
        (" " + "<a@x> " * 9, None, ()),
        (" <a@x> Bcc:<b@y>", None, ()),
    ],
)
def test_ancestors_are_references_else_the_single_parent_else_none(
    references: str | None, in_reply_to: str | None, expected: tuple[bytes, ...]
) -> None:
    mail = good_mail()
    for name, value in (("References", references), ("In-Reply-To", in_reply_to)):
        mail = mail if value is None else mail.set(name, value)
    assert parse_challenge_mail(mail.raw()).references == expected


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"<>",
        b"a@b",
        b"<a@b> x",
        b"<a b@c>",
        b"<a@b><c@d>",
        b"<a@b>\r\nBcc: x",
        b"<a@b>\0",
        b"<a@>",
        b"<@b>",
        b"<a>",
        b"<a@b%s>\n",
        b"<" + b"a" * 250 + b"@b>",
        "<ü@b>".encode(),
        b"<a@b>>",
        b"<<a@b>",
        b'<"a"@b>',
        b"<a@b,c>",
        b"<a@[b>",
    ],
    ids=ascii,
)
def test_message_identifier_outside_the_grammar_is_left_out(value: bytes) -> None:
    assert parse_message_id(value) is None
    assert parse_references(b"<ok@ok> " + value) == () or not value.strip()


@pytest.mark.parametrize("value", [b"<a@b>", b" <A.b+c=d$e@[10.0.0.1]> ", b"\r\n <x..y@host-1.example>", b"<%d{}@b>"])
def test_message_identifier_is_kept_verbatim(value: bytes) -> None:
    assert parse_message_id(value) == value.strip()


def test_first_fault_in_the_gates_order_is_reported() -> None:
    """Each repair uncovers the next fault: G3, G4, G5, G6, G7, G8, G9, G19, date, G11."""
    long_line = b"x" * 2_001 + b"\r\n"
    mail = good_mail().set("Date", " x").set("Reply-To", " x").set("To", " x").set("From", " x").with_body(long_line)
    mail = mail.set("Auto-Submitted", " no").set("Subject", " x").top("List-Id", " x").top("Cc", " x").top("Cc", " y")
    mail = mail.top("X A", " x")
    repairs: list[tuple[MailFault, Callable[[SampleMail], SampleMail]]] = [
        (MailFault.HEADER_SYNTAX, lambda m: m.drop("X A")),
        (MailFault.DUPLICATE_HEADER, lambda m: m.drop("Cc")),
        (MailFault.LIST_HEADER, lambda m: m.drop("List-Id")),
        (MailFault.SUBJECT_NOT_CHALLENGE, lambda m: m.set("Subject", f" ACME: {TOKEN_PART1}")),
        (MailFault.NOT_AUTO_GENERATED, lambda m: m.set("Auto-Submitted", " auto-generated")),
        (MailFault.FROM_MALFORMED, lambda m: m.set("From", f" {SENDER}")),
        (MailFault.TO_MALFORMED, lambda m: m.set("To", f" {RECIPIENT}")),
        (MailFault.REPLY_TO_MALFORMED, lambda m: m.drop("Reply-To")),
        (MailFault.DATE_MALFORMED, lambda m: m.drop("Date")),
        (MailFault.LINE_TOO_LONG, lambda m: m.with_body(b"")),
    ]
    for fault, repair in repairs:
        with pytest.raises(MailRefused) as caught:
            parse_challenge_mail(mail.raw())
        assert caught.value.fault is fault
        mail = repair(mail)
    assert isinstance(parse_challenge_mail(mail.raw()), ChallengeMail)


@given(st.binary(max_size=400))
def test_any_octets_are_a_challenge_mail_or_refused(raw: bytes) -> None:
    with pytest.raises(MailRefused):
        parse_challenge_mail(raw)


@given(st.data())
def test_good_mail_with_any_octets_changed_is_a_challenge_mail_or_refused(data: st.DataObject) -> None:
    raw = bytearray(good_mail().raw())
    for _ in range(data.draw(st.integers(1, 5))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        mail = parse_challenge_mail(bytes(raw))
    except MailRefused as refusal:
        said = refusal.detail
    else:
        said = "parsed"
        assert mail.raw == bytes(raw)
    assert said
    assert said.isprintable()


@given(st.integers(-2_000_000_000, 200_000_000_000))
def test_date_written_is_the_date_read(seconds: int) -> None:
    aware = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    assert parse_date(format_date(aware).encode()) == aware


def test_dates_of_the_rfc_are_read() -> None:
    assert parse_date(b" Sat, 5 Dec 2020 10:08:55 +0100") == datetime(2020, 12, 5, 9, 8, 55, tzinfo=UTC)
    assert parse_date(b" 5 Dec 2020 10:08 -0530 (x)") == datetime(2020, 12, 5, 15, 38, tzinfo=UTC)
    assert parse_date(b" Fri, 30 Dec 2016 23:59:60 GMT") == datetime(2016, 12, 30, 23, 59, 59, tzinfo=UTC)
    for bad in (
        b"",
        b" 5 Dec 2020",
        b" 32 Dec 2020 10:08:55 +0100",
        b" 5 Foo 2020 10:08:55 +0100",
        b" 5 Dec 2020 10:08:55 +9999",
        b" 5 Dec 2020 25:08:55 +0100",
    ):
        with pytest.raises(InvalidDate):
            parse_date(bad)
    assert format_date(NOW + timedelta(0)).endswith("+0000")
