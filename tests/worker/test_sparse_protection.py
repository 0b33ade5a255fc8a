# SPDX-License-Identifier: GPL-3.0-or-later
"""Mails whose signature protects From, To and Subject only: answered, and whoever changes the rest gains nothing."""

import subprocess
from datetime import datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from acme_milter.enrollment.model import State
from acme_milter.protocol.faults import MailFault
from acme_milter.protocol.smime_verdict import SmimeVerdict
from acme_milter.worker.smime_arithmetic import judge
from tests.protocol.sample_mail import NOW, ORDER_CREATED, SENDER, SampleMail, good_mail
from tests.protocol.smime_mail import place, root
from tests.protocol.sparse_mail import CONTENT, PROTECTED, as_sent, sparse, sparse_der
from tests.worker.conftest import MakeBench
from tests.worker.intake_bench import OTHER_MAILBOX, IntakeBench
from tests.worker.test_examination import judge as conditions

LONG_AGO = NOW - timedelta(days=300)
OLD_DATE = f" {format_datetime(LONG_AGO)}"
ELSEWHERE = " thief@attacker.example"


def verdict(raw: bytes, *, not_before: datetime | None = ORDER_CREATED) -> SmimeVerdict:
    return judge(raw, root().pem, now=NOW, not_before=not_before)


def meddled(mail: SampleMail, **signed: object) -> SmimeVerdict:
    """What comes of the authority's genuine signature under somebody else's header."""
    return verdict(as_sent(mail, sparse_der(good_mail(), **signed)))  # type: ignore[arg-type]  # a test's keywords


def test_openssl_too_holds_the_signature_for_good() -> None:
    saved = place() / "sparse.eml"
    saved.write_bytes(sparse())
    (place() / "root.pem").write_bytes(root().pem)
    command = ["openssl", "cms", "-verify", "-in", str(saved), "-CAfile", str(place() / "root.pem"), "-noout"]
    found = subprocess.run([*command, "-attime", f"{NOW.timestamp():.0f}"], capture_output=True, text=True, check=False)
    assert "successful" in found.stderr


def test_three_fields_are_enough_and_the_time_of_signing_is_told() -> None:
    found = verdict(sparse())
    assert (found.fault, found.detail, found.protection, found.dated) == (None, "", "rfc7508", False)
    assert verdict(sparse(time=NOW)).dated
    assert verdict(sparse(protected=(*PROTECTED, "Date"))).dated


@pytest.mark.parametrize("name", PROTECTED)
def test_none_of_the_three_may_be_open(name: str) -> None:
    found = verdict(sparse(protected=[one for one in PROTECTED if one != name], time=NOW))
    assert (found.fault, name.lower() in found.detail) == (MailFault.SMIME_UNPROTECTED, True)


@pytest.mark.parametrize("name", ["Reply-To", "REPLY-TO", "reply-to", "Sender", "Cc", "In-Reply-To", "References"])
@pytest.mark.parametrize("value", [ELSEWHERE, "\r\n thief@attacker.example", f" {SENDER}"], ids=["", "folded", "own"])
def test_a_field_that_was_added_and_could_lead_the_answer_is_refused(name: str, value: str) -> None:
    if name in ("In-Reply-To", "References"):
        value = " <thief@attacker.example>"
    for mail in (good_mail().set(name, value), good_mail().top(name, value)):
        found = meddled(mail, time=NOW)
        assert (found.fault, name.lower() in found.detail) == (MailFault.SMIME_UNPROTECTED, True)


def test_a_reply_to_that_the_authority_protects_may_neither_be_changed_nor_taken_away() -> None:
    mail = good_mail().set("Reply-To", " replies@ca.example")
    der = sparse_der(mail, protected=(*PROTECTED, "Reply-To"))
    assert verdict(as_sent(mail, der)).passed
    for other in (mail.set("Reply-To", ELSEWHERE), mail.drop("Reply-To")):
        assert verdict(as_sent(other, der)).fault is MailFault.SMIME_HEADER_DIFFERS


@pytest.mark.parametrize(
    ("name", "value"),
    [("From", f" x{SENDER}"), ("To", " bob@example.com"), ("Subject", " ACME: c29tZWJvZHkgZWxzZSdzIHRva2VuIGhlcmUu")],
)
def test_the_three_may_not_be_changed(name: str, value: str) -> None:
    fault = meddled(good_mail().set(name, value), time=NOW).fault
    assert fault in {MailFault.SMIME_HEADER_DIFFERS, MailFault.SMIME_ADDRESS}


NAMES = (
    "From",
    "FROM",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "auto-submitted",
    "Reply-To",
    "Sender",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["above", "below"])
def test_no_field_may_be_there_twice(name: str, where: str) -> None:
    (value,) = [text for known, text in good_mail().fields if known.lower() == name.lower()] or [ELSEWHERE]
    mail = good_mail() if name in ("Reply-To", "Sender") else good_mail().top(name, value)
    if name in ("Reply-To", "Sender"):
        mail = mail.top(name, value).top(name, value)
    if where == "below":
        mail = SampleMail((*mail.fields[1:], mail.fields[0]), mail.body)
    assert meddled(mail, time=NOW).fault is MailFault.DUPLICATE_HEADER


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("Resent-To", ELSEWHERE, MailFault.RESENT_HEADER),
        ("List-Post", " <mailto:thief@attacker.example>", MailFault.LIST_HEADER),
        ("Auto-Submitted", " auto-replied", MailFault.NOT_AUTO_GENERATED),
        ("Reply-To", f"{ELSEWHERE}, {SENDER}", MailFault.REPLY_TO_MALFORMED),
        ("Reply-To ", ELSEWHERE, MailFault.BLANK_BEFORE_COLON),
        ("Date", " the day before yesterday", MailFault.DATE_MALFORMED),
    ],
)
def test_what_no_challenge_mail_may_have_is_refused_as_ever(name: str, value: str, fault: MailFault) -> None:
    assert meddled(good_mail().set(name, value), time=NOW).fault is fault


def test_a_list_mail_that_was_signed_is_none_of_ours_though_it_does_not_say_so_outside() -> None:
    mail = good_mail().set("List-Id", " <l.ca.example>")
    der = sparse_der(mail, protected=(*PROTECTED, "List-Id"))
    assert verdict(as_sent(good_mail(), der)).fault is MailFault.SMIME_HEADER_DIFFERS


@pytest.mark.parametrize(
    "mail",
    [
        good_mail().set("Message-ID", " <other@attacker.example>"),
        good_mail().drop("Message-ID"),
        good_mail().drop("Auto-Submitted"),
        good_mail().set("Date", f" {format_datetime(NOW - timedelta(seconds=20))}"),
    ],
    ids=["another Message-ID", "no Message-ID", "no Auto-Submitted", "another Date"],
)
def test_what_gains_nothing_may_be_otherwise(mail: SampleMail) -> None:
    assert meddled(mail).passed


def test_a_signed_time_that_is_old_is_not_made_young_by_a_date() -> None:
    assert meddled(good_mail(), time=LONG_AGO).fault is MailFault.SMIME_TIME
    assert meddled(good_mail(), time=NOW + timedelta(hours=1)).fault is MailFault.SMIME_TIME
    dated = sparse_der(good_mail().set("Date", OLD_DATE), protected=(*PROTECTED, "Date"))
    assert verdict(as_sent(good_mail(), dated)).fault is MailFault.SMIME_HEADER_DIFFERS


def test_an_old_date_is_believed_though_nothing_protects_it_and_no_time_at_all_is_refused() -> None:
    for mail in (good_mail().set("Date", OLD_DATE), good_mail().drop("Date")):
        assert meddled(mail).fault is MailFault.SMIME_TIME
        assert verdict(as_sent(mail, sparse_der(mail)), not_before=None).passed


def test_the_content_is_one_and_the_same_beside_the_signature_and_in_it() -> None:
    assert verdict(sparse(enclosed=None)).passed
    other = CONTENT.replace(b"001c", b"ffff")
    for raw in (sparse(enclosed=other), as_sent(good_mail(), sparse_der(good_mail(), enclosed=other), other)):
        assert verdict(raw).fault in {MailFault.SMIME_STRUCTURE, MailFault.SMIME_SIGNATURE}


@pytest.fixture
def bench(make_bench: MakeBench, tmp_path: Path) -> IntakeBench:
    (tmp_path / "signers.pem").write_bytes(root().pem)
    return make_bench(authority={"accept_smime_signed": True, "smime_trust": "signers.pem"})


def test_it_is_answered_to_the_authority_and_to_nobody_else(bench: IntakeBench) -> None:
    order = bench.expect()
    stolen = as_sent(good_mail().set("Reply-To", ELSEWHERE), sparse_der(good_mail()))
    assert (bench.decide(stolen).reason, bench.outbox_of(order)) == ("smime-unprotected", [])
    assert bench.decide(sparse()).reason == "accepted"
    (reply,) = bench.outbox_of(order)
    assert reply.envelope_recipient == SENDER


def test_the_same_token_is_answered_once_whatever_else_is_changed(bench: IntakeBench) -> None:
    bench.expect()
    bench.decide(sparse())
    again = good_mail().set("Message-ID", " <other@attacker.example>")
    assert bench.decide(as_sent(again, sparse_der(good_mail()))).reason == "answered-already"
    assert len(bench.replies_due) == 1


@pytest.mark.parametrize("then", ["its own mailbox", "an alias of another one"])
@pytest.mark.parametrize("timed", [False, True], ids=["no time", "signed time"])
def test_a_token_of_an_earlier_order_is_answered_only_where_a_signed_time_says_that_it_is_new(
    bench: IntakeBench, timed: bool, then: str
) -> None:
    first = bench.expect()
    assert bench.decide(sparse()).reason == "accepted"
    bench.set_state(first, State.ACTIVE)
    if then != "its own mailbox":  # as when the earlier order was that one's, and this address among its aliases
        with bench.raw_connection() as connection:
            connection.execute("UPDATE enrollment SET address = ? WHERE id = ?", (OTHER_MAILBOX, first.id))
    bench.clock.advance(days=30)
    second = bench.expect(at=bench.clock() - timedelta(minutes=1))
    mail = good_mail().set("Date", f" {format_datetime(bench.clock())}")
    raw = as_sent(mail, sparse_der(good_mail(), time=bench.clock() if timed else None))
    assert conditions(bench, raw)["S7"].result.value == ("holds" if timed else "fails")
    assert bench.decide(raw).reason == ("accepted" if timed else "smime-time")
    assert len(bench.outbox_of(second)) == timed
