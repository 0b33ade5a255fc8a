# SPDX-License-Identifier: GPL-3.0-or-later
"""The reply: exactly the expected header list and body for any challenge, read by Python's email package."""

import base64
import email
import email.policy
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acme_milter.protocol.challenge_mail import parse_challenge_mail
from acme_milter.protocol.faults import MailRefused
from acme_milter.protocol.mailbox import Mailbox
from acme_milter.protocol.reply_mail import ReplyMail, compose_reply
from tests.protocol.sample_mail import RECIPIENT, SENDER, TOKEN_PART1, SampleMail, good_mail

IDENTIFIER = Mailbox.parse(RECIPIENT)
DIGEST = "oqRgcdn5jIDrdckMC7owMFH3UoxuDcTUPaTHapj0tfs"
DATE = datetime(2020, 12, 5, 11, 1, 45, tzinfo=UTC)
OWN_ID = "<111-22222-3333333@example.com>"
BODY = f"-----BEGIN ACME RESPONSE-----\r\n{DIGEST}\r\n-----END ACME RESPONSE-----\r\n".encode()


def reply_to(mail: SampleMail | bytes, identifier: Mailbox = IDENTIFIER, *, auto_submitted: bool = True) -> ReplyMail:
    challenge = parse_challenge_mail(mail if isinstance(mail, bytes) else mail.raw(), require_auto_submitted=False)
    return compose_reply(
        challenge, identifier=identifier, digest=DIGEST, message_id=OWN_ID, date=DATE, auto_submitted=auto_submitted
    )


def test_reply_is_the_rfcs_example_with_one_line_of_digest() -> None:
    assert reply_to(good_mail()).raw == (
        b"Date: Sat, 05 Dec 2020 11:01:45 +0000\r\n"
        b"From: alexey@example.com\r\n"
        b"To: acme-generator@ca.example\r\n"
        b"Subject: Re: ACME: LgYemJLy3F1LDkiJrdIGbEzyFJyOyf6vBdyZ1TG3sME=\r\n"
        b"Message-ID: <111-22222-3333333@example.com>\r\n"
        b"In-Reply-To: <A2299BB.FF7788@ca.example>\r\n"
        b"References: <A2299BB.FF7788@ca.example>\r\n"
        b"Auto-Submitted: auto-replied\r\n"
        b"MIME-Version: 1.0\r\n"
        b"Content-Type: text/plain; charset=us-ascii\r\n"
        b"Content-Transfer-Encoding: 7bit\r\n"
        b"\r\n" + BODY
    )


def test_reply_goes_to_reply_to_when_there_is_one() -> None:
    reply = reply_to(good_mail().set("Reply-To", " acme-validator@ca.example"))
    assert str(reply.recipient) == "acme-validator@ca.example"
    assert b"\r\nTo: acme-validator@ca.example\r\n" in reply.raw


def test_token_is_echoed_as_decoded_with_blanks_removed_and_padding_kept() -> None:
    encoded = " =?UTF-8?Q?ACME:_LgYemJLy3F1LDki=20JrdIGbEzyFJyOyf=20=206vBdyZ1TG3sME=3D?="
    assert f"\r\nSubject: Re: ACME: {TOKEN_PART1}\r\n".encode() in reply_to(good_mail().set("Subject", encoded)).raw
    assert b"Re: ACME: LgYemJLy3F1LDkiJrdIGbEzyFJyOyf6vBdyZ1TG3sME\r\n" in reply_to(good_mail(TOKEN_PART1[:-1])).raw


def test_thread_is_references_then_the_challenges_own_identifier() -> None:
    raw = reply_to(good_mail().set("References", " <a@ca.example> <b@ca.example>")).raw
    assert b"\r\nReferences: <a@ca.example>\r\n <b@ca.example>\r\n <A2299BB.FF7788@ca.example>\r\n" in raw


@pytest.mark.parametrize(
    "mail", [good_mail().drop("Message-ID"), good_mail().set("Message-ID", " <a@b>\r\n Bcc: evil@x.example")]
)
def test_without_a_usable_message_id_there_is_no_thread(mail: SampleMail) -> None:
    raw = reply_to(mail.set("References", " <a@ca.example>")).raw
    assert b"In-Reply-To" not in raw
    assert b"References" not in raw
    assert b"evil" not in raw


def test_auto_submitted_can_be_left_out_for_an_authority_that_drops_it() -> None:
    assert b"Auto-Submitted" not in reply_to(good_mail(), auto_submitted=False).raw


def test_identifier_is_written_exactly_as_ordered() -> None:
    reply = reply_to(good_mail(), Mailbox.parse("Alexey.M@Example.COM"))
    assert b"\r\nFrom: Alexey.M@example.com\r\n" in reply.raw
    assert not reply.needs_smtputf8


def test_non_ascii_identifier_is_raw_utf8_and_says_so() -> None:
    reply = reply_to(good_mail(), Mailbox.parse("jürgen@münchen.example", allow_utf8=True))
    assert "\r\nFrom: jürgen@xn--mnchen-3ya.example\r\n".encode() in reply.raw
    assert reply.needs_smtputf8


@pytest.mark.parametrize(
    "digest", ["", DIGEST + "=", DIGEST[:-1], DIGEST + "A", DIGEST[:-1] + "\n", DIGEST[:-1] + "+", "ä" * 43]
)
def test_digest_of_another_form_is_refused(digest: str) -> None:
    with pytest.raises(ValueError, match="43 characters"):
        compose_reply(
            parse_challenge_mail(good_mail().raw()), identifier=IDENTIFIER, digest=digest, message_id=OWN_ID, date=DATE
        )


@pytest.mark.parametrize("message_id", ["", "<a@b", "a b@c", "<a@b>\r\nBcc: x", "<ä@b>", " <a@b>"])
def test_own_identifier_of_another_form_is_refused(message_id: str) -> None:
    with pytest.raises(ValueError, match="message identifier"):
        compose_reply(
            parse_challenge_mail(good_mail().raw()),
            identifier=IDENTIFIER,
            digest=DIGEST,
            message_id=message_id,
            date=DATE,
        )


def test_own_identifier_gets_its_brackets_and_a_naive_date_is_refused() -> None:
    challenge = parse_challenge_mail(good_mail().raw())
    reply = compose_reply(challenge, identifier=IDENTIFIER, digest=DIGEST, message_id=OWN_ID[1:-1], date=DATE)
    assert reply.message_id == OWN_ID
    with pytest.raises(ValueError, match="aware"):
        compose_reply(
            challenge, identifier=IDENTIFIER, digest=DIGEST, message_id=OWN_ID, date=DATE.replace(tzinfo=None)
        )


def test_reply_does_not_show_its_digest() -> None:
    assert DIGEST not in repr(reply_to(good_mail()))


# What an attacker may write: header syntax, encodings, separators, and pieces of good values.
PIECES = (
    *'<>@,;:()"\\.%=?_- \t\r\n\0abcACMEz019+/',
    *(
        "ü",
        "\u2028",
        "\udc80",
        "\r\n ",
        "\r\nBcc: x@y.example",
        "=0D=0A",
        "=?utf-8?q?",
        "?=",
        "ACME: ",
        "<a@b.example>",
    ),
    *(TOKEN_PART1, SENDER),
)
ATTACKED = {
    "From": SENDER,
    "To": RECIPIENT,
    "Reply-To": "acme-validator@ca.example",
    "Subject": f"ACME: {TOKEN_PART1}",
    "Message-ID": "<A2299BB.FF7788@ca.example>",
    "References": "<a@ca.example> <b@ca.example>",
    "In-Reply-To": "<b@ca.example>",
    "Auto-Submitted": "auto-generated",
    "X-A": "",
}
HOSTILE_TEXT = st.lists(st.sampled_from(PIECES), max_size=4).map("".join)


def replies_header_list(raw: bytes) -> list[tuple[str, str]]:
    message = email.message_from_bytes(raw, policy=email.policy.compat32)
    assert not message.defects
    assert not message.is_multipart()
    return [(name, str(value)) for name, value in message.items()]


def check_form(challenge_raw: bytes, reply: ReplyMail) -> None:
    challenge = parse_challenge_mail(challenge_raw, require_auto_submitted=False)
    recipient = challenge.reply_to or challenge.sender
    thread = []
    if challenge.message_id is not None:
        own = challenge.message_id.decode()
        ancestors = [item.decode() for item in challenge.references]
        thread = [("In-Reply-To", own), ("References", "\r\n ".join([*ancestors, own]))]
    assert replies_header_list(reply.raw) == [
        ("Date", "Sat, 05 Dec 2020 11:01:45 +0000"),
        ("From", RECIPIENT),
        ("To", str(recipient)),
        ("Subject", f"Re: ACME: {challenge.token_part1.text}"),
        ("Message-ID", OWN_ID),
        *thread,
        ("Auto-Submitted", "auto-replied"),
        ("MIME-Version", "1.0"),
        ("Content-Type", "text/plain; charset=us-ascii"),
        ("Content-Transfer-Encoding", "7bit"),
    ]
    head, _, body = reply.raw.partition(b"\r\n\r\n")
    assert body == BODY
    assert reply.raw.isascii()
    assert reply.raw.count(b"\r") == reply.raw.count(b"\n") == reply.raw.count(b"\r\n")
    lines = reply.raw.split(b"\r\n")
    assert max(map(len, lines)) <= 998
    assert f"Subject: Re: ACME: {challenge.token_part1.text}".encode() in lines  # one line, never folded
    assert not any(name.lower().startswith("list-") for name, _ in replies_header_list(reply.raw))
    assert len(reply.raw) < 4096
    assert head.count(b"\r\n ") == len(challenge.references) * bool(challenge.message_id)


@settings(max_examples=1000)
@given(
    before=st.dictionaries(st.sampled_from(sorted(ATTACKED)), HOSTILE_TEXT, max_size=3),
    after=st.dictionaries(st.sampled_from(sorted(ATTACKED)), HOSTILE_TEXT, max_size=3),
)
def test_reply_to_any_challenge_that_parses_has_exactly_the_expected_form(
    before: dict[str, str], after: dict[str, str]
) -> None:
    mail = good_mail()
    for name in {**before, **after}:
        mail = mail.set(name, f" {before.get(name, '')}{ATTACKED[name]}{after.get(name, '')}")
    raw = mail.raw()
    try:
        reply = reply_to(raw)
    except MailRefused:
        return
    check_form(raw, reply)


IDENTIFIERS = st.from_regex(r"\A<[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,100}@[A-Za-z0-9.-]{1,100}>\Z")


@given(
    token=st.integers(16, 96).flatmap(lambda size: st.binary(min_size=size, max_size=size)),
    padded=st.booleans(),
    message_id=st.none() | IDENTIFIERS,
    references=st.lists(IDENTIFIERS, max_size=10),
    reply_to_local=st.none() | st.from_regex(r"\A[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,64}\Z"),
    blanks=st.lists(st.sampled_from([" ", "\t", "\r\n ", "\r\n\t"]), max_size=5),
)
def test_reply_to_every_good_challenge_has_exactly_the_expected_form(
    token: bytes,
    padded: bool,
    message_id: str | None,
    references: list[str],
    reply_to_local: str | None,
    blanks: list[str],
) -> None:
    text = base64.urlsafe_b64encode(token).decode()
    text = text if padded else text.rstrip("=")
    for number, blank in enumerate(blanks):  # from the end on, so that no two meet
        place = 3 * (len(blanks) - number)
        text = text[:place] + blank + text[place:]
    mail = good_mail().set("Subject", f" ACME: {text}")
    mail = mail.drop("Message-ID") if message_id is None else mail.set("Message-ID", f" {message_id}")
    if references:
        mail = mail.set("References", " " + "\r\n ".join(references))
    if reply_to_local is not None:
        mail = mail.set("Reply-To", f" {reply_to_local}@ca.example")
    check_form(mail.raw(), reply_to(mail))


def test_protocol_builds_no_mail_with_a_mail_library() -> None:
    source = Path(__file__).parents[2] / "acme_milter" / "protocol"
    assert not [
        path.name
        for path in source.glob("*.py")
        if "import email" in path.read_text() or "from email" in path.read_text()
    ]
