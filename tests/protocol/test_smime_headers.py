# SPDX-License-Identifier: GPL-3.0-or-later
"""Header protection: what the signature covers must be what the mail says, and nothing that counts stays uncovered."""

import pytest

from acme_milter.protocol.faults import MailFault, MailRefused
from acme_milter.protocol.header_protection import (
    MAY_BE_OPEN,
    PROTECTED_NAMES,
    Protection,
    SecureField,
    check_protection,
    protected_headers,
)
from acme_milter.protocol.headers import split_message
from tests.protocol.sample_mail import SampleMail, good_mail
from tests.protocol.smime_mail import about, clear_part

FULL = (
    good_mail()
    .set("Reply-To", " acme-reply@ca.example")
    .set("Cc", " a@ca.example")
    .set("References", " <r@ca.example>")
)
NAMES = ("Auto-Submitted", "Date", "Message-ID", "From", "To", "Subject", "Reply-To", "Cc", "References")


def wrapped(mail: SampleMail) -> bytes:
    return b"Content-Type: message/rfc822\r\n\r\n" + mail.raw()


def attribute(mail: SampleMail) -> tuple[SecureField, ...]:
    return tuple(SecureField(n.encode(), v.strip().encode(), True) for n, v in about(mail).fields)


PLAIN = b"Content-Type: text/plain\r\n\r\ntext\r\n"


def judged(outer: SampleMail, payload: bytes, secure: tuple[SecureField, ...] | None = None) -> Protection:
    headers, _ = split_message(outer.raw())
    protected = protected_headers(payload, secure)
    check_protection(headers, protected)
    return protected.kind


def refused(outer: SampleMail, payload: bytes, secure: tuple[SecureField, ...] | None = None) -> MailRefused:
    with pytest.raises(MailRefused) as caught:
        judged(outer, payload, secure)
    return caught.value


def test_the_three_ways_of_protection_hold() -> None:
    assert judged(FULL, clear_part(FULL)) is Protection.CLEAR
    assert judged(FULL, wrapped(FULL)) is Protection.WRAPPED
    assert judged(FULL, PLAIN, attribute(FULL)) is Protection.ATTRIBUTE


def test_the_newest_way_is_the_one_that_counts() -> None:
    assert judged(FULL, clear_part(FULL), attribute(good_mail())) is Protection.CLEAR


def test_folding_and_blanks_may_differ_and_nothing_else() -> None:
    folded = FULL.set("Subject", FULL.fields[5][1].replace("ACME: ", "ACME:\r\n "))
    assert judged(folded, clear_part(FULL)) is Protection.CLEAR


@pytest.mark.parametrize("name", [name for name in NAMES if name.lower() not in MAY_BE_OPEN])
def test_each_field_that_leads_the_answer_must_be_protected(name: str) -> None:
    for fault in (
        refused(FULL, clear_part(FULL.drop(name))),
        refused(FULL, wrapped(FULL.drop(name))),
        refused(FULL, PLAIN, attribute(FULL.drop(name))),
    ):
        assert (fault.fault, name.lower() in fault.detail) == (MailFault.SMIME_UNPROTECTED, True)


def test_what_cannot_lead_an_answer_may_be_open_and_nothing_else() -> None:
    assert {"auto-submitted", "date", "message-id"} == MAY_BE_OPEN
    for name in MAY_BE_OPEN:
        lean = FULL.drop(*(known for known in NAMES if known.lower() == name))
        assert judged(FULL, clear_part(lean)) is Protection.CLEAR
        assert judged(FULL, wrapped(lean)) is Protection.WRAPPED
        assert judged(FULL, PLAIN, attribute(lean)) is Protection.ATTRIBUTE


@pytest.mark.parametrize("name", ["List-Id", "resent-to"])
def test_what_was_passed_on_may_not_hide_it(name: str) -> None:
    inside = FULL.set(name, " x@ca.example")
    assert refused(FULL, clear_part(inside)).fault is MailFault.SMIME_HEADER_DIFFERS


@pytest.mark.parametrize("name", NAMES)
def test_each_field_must_be_the_same_outside(name: str) -> None:
    changed = FULL.set(name, " changed@attacker.example")
    for fault in (
        refused(changed, clear_part(FULL)),
        refused(changed, wrapped(FULL)),
        refused(changed, PLAIN, attribute(FULL)),
    ):
        assert (fault.fault, name.lower() in fault.detail) == (MailFault.SMIME_HEADER_DIFFERS, True)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("From", "To", "Subject")])
def test_no_protected_field_may_be_taken_away_outside(name: str) -> None:
    assert refused(FULL.drop(name), clear_part(FULL)).fault is MailFault.SMIME_HEADER_DIFFERS


def test_what_occurs_twice_inside_is_refused() -> None:
    inside = clear_part(FULL.top("Subject", " ACME: x"))
    assert refused(FULL, inside).fault is MailFault.SMIME_HEADER_DIFFERS


@pytest.mark.parametrize(
    "kind",
    ["text/plain", 'text/plain; hp="cipher"', 'text/plain; protected-headers="v1"', 'multipart/mixed; boundary="x"'],
)
def test_fields_that_merely_stand_in_the_signed_part_protect_nothing(kind: str) -> None:
    assert refused(FULL, clear_part(FULL, f" {kind}")).fault is MailFault.SMIME_UNPROTECTED


def test_a_field_that_the_signer_calls_changed_is_refused() -> None:
    secure = tuple(SecureField(one.name, one.value, one.name != b"Subject") for one in attribute(FULL))
    assert refused(FULL, PLAIN, secure).fault is MailFault.SMIME_HEADER_DIFFERS


@pytest.mark.parametrize("kind", ["multipart/signed; boundary=x", "application/pkcs7-mime", "multipart/encrypted"])
def test_a_signature_within_a_signature_is_refused(kind: str) -> None:
    for payload in (clear_part(FULL, f' {kind}; hp="clear"'), wrapped(FULL.set("Content-Type", f" {kind}"))):
        assert refused(FULL, payload).fault is MailFault.SMIME_STRUCTURE


def test_a_wrapped_mail_that_is_encoded_is_refused() -> None:
    payload = b"Content-Transfer-Encoding: base64\r\n" + wrapped(FULL)
    assert refused(FULL, payload).fault is MailFault.SMIME_UNPROTECTED


def test_what_dkim_would_have_to_cover_is_what_counts() -> None:
    assert len(PROTECTED_NAMES) == 11
    assert {name.lower() for name in NAMES} <= set(PROTECTED_NAMES)
