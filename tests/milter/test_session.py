# SPDX-License-Identifier: GPL-3.0-or-later
"""The decisions about one message, without any milter around them."""

import pytest

from acme_milter.milter.session import MAX_MAIL, Envelope, Session, Step, client_of, fold_recipient

MANAGED = frozenset({"alice@org.example"})
SUBJECT = b" ACME: LgYemJLy3F1LDkiJrdIGbEzyFJyOyf6vBdyZ1TG3sME="


def begun(*recipients: str, with_blank: bool = True) -> Session:
    session = Session(with_blank=with_blank)
    session.recipients.extend(recipients or ("alice@org.example",))
    assert session.begin(Envelope(queue_id="4Vx1")) is Step.MORE
    return session


def test_mail_without_a_managed_recipient_is_accepted_at_data() -> None:
    session = Session()
    session.recipients.append("carol@org.example")
    assert session.at_data(MANAGED) is Step.ACCEPT


def test_one_managed_recipient_among_others_is_enough_to_go_on() -> None:
    session = Session()
    session.recipients.extend(["carol@org.example", "alice@org.example"])
    assert session.at_data(MANAGED) is Step.MORE


def test_while_nobody_knows_who_is_managed_any_recipient_may_be() -> None:
    session = Session()
    session.recipients.append("carol@org.example")
    assert session.at_data(None) is Step.MORE


@pytest.mark.parametrize(
    ("envelope", "step"),
    [
        (Envelope(), Step.MORE),
        (Envelope(daemon="mx.org.example"), Step.MORE),
        (Envelope(authenticated=True), Step.ACCEPT),
        (Envelope(daemon="ORIGINATING"), Step.ACCEPT),
        (Envelope(daemon="submission"), Step.ACCEPT),
    ],
    ids=["bare", "mx", "sasl", "originating", "submission"],
)
def test_mail_of_logged_in_users_and_submission_services_is_accepted(envelope: Envelope, step: Step) -> None:
    assert Session().begin(envelope) is step


@pytest.mark.parametrize(
    ("name", "value", "step"),
    [
        ("Subject", SUBJECT, Step.MORE),
        ("SUBJECT", b" ACME:\n LgYemJLy3F1LDkiJrdIGbEzyFJyOyf6v", Step.MORE),
        ("Subject", b" =?utf-8?q?ACME=3A_LgYemJLy3F1LDkiJrdIGbEzy?=", Step.MORE),
        ("Subject", b" lunch", Step.ACCEPT),
        ("Subject", b" Re: ACME: LgYemJLy3F1LDkiJrdIGbEzy", Step.ACCEPT),
        ("X-Subject", SUBJECT, Step.ACCEPT),
    ],
    ids=["plain", "folded", "encoded", "other", "reply", "other-header"],
)
def test_only_a_subject_that_begins_acme_makes_a_candidate(name: str, value: bytes, step: Step) -> None:
    session = begun()
    session.header("From", b" a@b.example")
    session.header(name, value)
    assert session.at_end_of_headers() is step


def test_a_second_subject_is_looked_at_too() -> None:
    session = begun()
    session.header("Subject", b" lunch")
    session.header("Subject", SUBJECT)
    assert session.at_end_of_headers() is Step.MORE


def test_the_raw_mail_has_the_headers_octets_and_crlf_folds() -> None:
    session = begun()
    session.header("From", b"  \xc3\xa4 <a@b.example>\t")
    session.header("Subject", SUBJECT)
    session.header("X-Folded", b" one\n\ttwo\n three")
    assert session.at_end_of_headers() is Step.MORE
    assert session.body(b"Hi\r\n")
    assert session.candidate().raw == (
        b"From:  \xc3\xa4 <a@b.example>\t\r\nSubject:" + SUBJECT + b"\r\nX-Folded: one\r\n\ttwo\r\n three\r\n\r\nHi\r\n"
    )


def test_without_leading_space_from_the_mta_one_blank_is_put_after_the_colon() -> None:
    session = begun(with_blank=False)
    session.header("Subject", SUBJECT.lstrip())
    assert session.at_end_of_headers() is Step.MORE
    assert session.candidate().raw == b"Subject:" + SUBJECT + b"\r\n\r\n"


@pytest.mark.parametrize("size", [MAX_MAIL, MAX_MAIL + 1], ids=["largest", "one-more"])
def test_a_mail_of_the_limit_is_whole_and_one_octet_more_is_truncated(size: int) -> None:
    session = begun()
    session.header("Subject", SUBJECT)
    head = len(b"Subject:" + SUBJECT + b"\r\n\r\n")
    assert session.at_end_of_headers() is Step.MORE
    wants_more = session.body(b"x" * (size - head))
    candidate = session.candidate()
    assert wants_more is not candidate.truncated
    assert candidate.truncated is (size > MAX_MAIL)
    assert len(candidate.raw) == size


def test_memory_for_a_huge_candidate_is_bounded() -> None:
    session = begun()
    session.header("Subject", SUBJECT)
    for _ in range(1000):
        session.header("X-Filler", b"y" * 10_000)
    for _ in range(100):
        session.body(b"x" * 65536)
    candidate = session.candidate()
    assert candidate.truncated
    assert len(candidate.raw) == MAX_MAIL + 1


def test_nothing_of_one_message_reaches_the_next() -> None:
    session = begun("alice@org.example", "bob@org.example")
    session.header("Subject", SUBJECT)
    assert session.at_end_of_headers() is Step.MORE
    session.clear()
    assert session.recipients == []
    assert session.at_end_of_headers() is Step.ACCEPT
    session.recipients.append("alice@org.example")
    assert session.begin(Envelope()) is Step.MORE
    session.header("X-Second", b" 2")
    assert session.candidate().raw == b"X-Second: 2\r\n\r\n"
    assert session.candidate().recipients == ("alice@org.example",)


def test_headers_that_nobody_asked_for_are_ignored() -> None:
    session = Session()
    session.header("Subject", SUBJECT)
    assert session.at_end_of_headers() is Step.ACCEPT
    assert not session.body(b"x")


def test_a_candidate_never_shows_its_subject_or_text() -> None:
    session = begun()
    session.header("Subject", SUBJECT)
    assert "LgYem" not in repr(session.candidate())


@pytest.mark.parametrize(
    ("typed", "folded"),
    [
        ("<Alice@Org.Example>", "alice@org.example"),
        ("alice@org.example", "alice@org.example"),
        ("alice@bücher.example", "alice@xn--bcher-kva.example"),
        ("jörg@BÜCHER.example", "jörg@xn--bcher-kva.example"),
        ("a@" + "ü" * 80 + ".example", "a@" + "ü" * 80 + ".example"),
        ("", ""),
    ],
)
def test_recipients_are_folded_as_the_managed_set_is(typed: str, folded: str) -> None:
    assert fold_recipient(typed) == folded


@pytest.mark.parametrize(
    ("macro", "client"),
    [
        ("mail.example [192.0.2.1]", ("mail.example", "192.0.2.1")),
        ("unknown [IPv6:2001:db8::1]", ("unknown", "2001:db8::1")),
        ("[192.0.2.1]", ("", "192.0.2.1")),
        ("", ("", "")),
        ("nonsense", ("", "")),
    ],
)
def test_client_name_and_address_come_out_of_the_macro(macro: str, client: tuple[str, str]) -> None:
    assert client_of(macro) == client
