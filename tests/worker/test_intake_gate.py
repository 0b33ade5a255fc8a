# SPDX-License-Identifier: GPL-3.0-or-later
"""Through the whole intake: each condition flipped alone, with what the milter is told, what is logged and stored."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from acme_milter.enrollment.conditions import Reason
from acme_milter.protocol.faults import MailFault
from acme_milter.store.database import Database
from tests.protocol.sample_mail import (
    CA_DOMAIN,
    NOW,
    ORDER_CREATED,
    RECIPIENT,
    SENDER,
    STRICT_NAMES,
    TOKEN_PART1,
    SignatureSpec,
    good_mail,
    rsa_key,
)
from tests.worker.conftest import MakeBench
from tests.worker.intake_bench import OTHER_MAILBOX, QUEUE_ID, IntakeBench, token

SELECTOR = f"rsa._domainkey.{CA_DOMAIN}"
Prepare = Callable[[IntakeBench], object]


@dataclass(frozen=True)
class Flip:
    """One change to the good case. `prepare` works on the bench, `changes` on its configuration."""

    condition: str
    reason: Reason | MailFault
    raw: Callable[[], bytes] = field(default=lambda: good_mail().signed())
    prepare: Prepare = field(default=lambda bench: bench.expect())
    recipients: tuple[str, ...] = (RECIPIENT,)
    changes: dict[str, Any] = field(default_factory=dict)
    alert: bool = True
    event: str = "challenge-refused"
    disposition: str = "accept"
    arguments: dict[str, bool] = field(default_factory=dict)


def quiet(condition: str, reason: Reason | MailFault, **more: Any) -> Flip:
    return Flip(condition, reason, alert=False, **more)


def mail(condition: str, reason: Reason | MailFault, *fields: tuple[str, str], top: bool = False, **more: Any) -> Flip:
    """The good mail with these fields set, or put on top, and then properly signed."""

    def raw() -> bytes:
        changed = good_mail()
        for name, value in fields:
            changed = changed.top(name, value) if top else changed.set(name, value)
        return changed.signed()

    return Flip(condition, reason, raw=raw, **more)


def signed(condition: str, reason: Reason | MailFault, **spec: Any) -> Flip:
    return Flip(condition, reason, raw=lambda: good_mail().signed(SignatureSpec(**spec)))


def published(condition: str, reason: Reason | MailFault, *records: bytes, **more: Any) -> Flip:
    def prepare(bench: IntakeBench) -> None:
        bench.expect()
        bench.names.set_txt(SELECTOR, *records)

    return Flip(condition, reason, prepare=prepare, **more)


def deferred(fault: str) -> Prepare:
    def prepare(bench: IntakeBench) -> None:
        bench.expect()
        bench.names.set_fault(SELECTOR, fault)

    return prepare


def seconds(offset: timedelta) -> str:
    return str(int((NOW + offset).timestamp()))


def answer_three(bench: IntakeBench) -> None:
    bench.expect()
    for number in range(3):
        assert bench.decide(good_mail(token(number)).signed()).reason == Reason.ACCEPTED


OBSERVE = {"defaults": {"mode": "observe"}}
DOUBT: dict[str, Any] = {"alert": False, "event": "challenge-doubt", "disposition": "tempfail"}
UNSOLICITED = {"event": "challenge-unsolicited"}

FLIPS = {
    "G1 sent by a user": quiet("G1", Reason.NOT_FROM_OUTSIDE, arguments={"authenticated": True}),
    "G2 not managed": quiet("G2", Reason.NOT_MANAGED, recipients=("carol@example.com",)),
    "G2 several": Flip("G2", Reason.SEVERAL_RECIPIENTS, recipients=(RECIPIENT, "carol@example.com")),
    "G3 large header": mail("G3", MailFault.HEADER_BLOCK_TOO_LARGE, ("X", " x" * 33000), alert=False),
    "G3 many headers": Flip(
        "G3",
        MailFault.TOO_MANY_HEADERS,
        raw=lambda: b"X: y\r\n" * 200 + good_mail().signed(),
        alert=False,
    ),
    "G3 NUL": mail("G3", MailFault.HEADER_CONTROL_CHARACTER, ("X", " \0"), alert=False),
    "G4 second Subject": mail("G4", MailFault.DUPLICATE_HEADER, ("Subject", " Cheap watches"), top=True),
    "G4 second Message-ID": mail("G4", MailFault.DUPLICATE_HEADER, ("Message-ID", " <x@y>"), top=True),
    "G5 a list's mail": mail("G5", MailFault.LIST_HEADER, ("List-Id", " <x.example>")),
    "G5 resent": mail("G5", MailFault.RESENT_HEADER, ("Resent-To", " x@y.example")),
    "G5 blank before colon": mail("G5", MailFault.BLANK_BEFORE_COLON, ("Subject ", " x"), top=True),
    "G6 a reply": mail("G6", MailFault.SUBJECT_NOT_CHALLENGE, ("Subject", f" Re: ACME: {TOKEN_PART1}"), alert=False),
    "G6 short token": mail("G6", MailFault.SUBJECT_NOT_CHALLENGE, ("Subject", " ACME: c2hvcnQ"), alert=False),
    "G7 absent": Flip("G7", MailFault.NOT_AUTO_GENERATED, raw=lambda: good_mail().drop("Auto-Submitted").signed()),
    "G7 a reply": mail("G7", MailFault.NOT_AUTO_GENERATED, ("Auto-Submitted", " auto-replied")),
    "G8 two authors": mail("G8", MailFault.FROM_MALFORMED, ("From", f" {SENDER}, x@{CA_DOMAIN}")),
    "G9 malformed": mail("G9", MailFault.TO_MALFORMED, ("To", " all:;")),
    "G9 somebody else": mail("G9", Reason.RECIPIENT_MISMATCH, ("To", f" {OTHER_MAILBOX}")),
    "G10 no order": Flip("G10", Reason.UNSOLICITED, prepare=lambda bench: None, **UNSOLICITED),  # type: ignore[arg-type]  # all are str
    "G10 another sender": Flip(
        "G10",
        Reason.UNSOLICITED,
        prepare=lambda bench: bench.expect(sender=f"other@{CA_DOMAIN}"),
        event="challenge-unsolicited",
    ),
    "G10 another mailbox's order": Flip(
        "G10", Reason.UNSOLICITED, prepare=lambda bench: bench.expect(OTHER_MAILBOX), event="challenge-unsolicited"
    ),
    "G10 a day old": Flip(
        "G10",
        Reason.UNSOLICITED,
        prepare=lambda bench: bench.expect(at=NOW - timedelta(hours=24, seconds=1)),
        event="challenge-unsolicited",
    ),
    "G11 large": Flip(
        "G11", MailFault.TOO_LARGE, raw=lambda: good_mail().with_body(b"line of text\r\n" * 20000).signed()
    ),
    "G11 cut off": Flip("G11", MailFault.TOO_LARGE, arguments={"truncated": True}),
    "G11 long line": Flip(
        "G11", MailFault.LINE_TOO_LONG, raw=lambda: good_mail().with_body(b"x" * 2001 + b"\r\n").signed()
    ),
    "G12 unsigned": Flip("G12", MailFault.DKIM_NONE, raw=lambda: good_mail().raw()),
    "G12 parent domain": signed("G12", MailFault.DKIM_DOMAIN, domain="example"),
    "G13 rsa-sha1": signed("G13", MailFault.DKIM_ALGORITHM, tags={"a": "rsa-sha1"}),
    "G13 l=": signed("G13", MailFault.DKIM_LENGTH_TAG, body_octets=10),
    "G14 Reply-To not covered": signed(
        "G14", MailFault.DKIM_COVERAGE, names=tuple(name for name in STRICT_NAMES if name != "Reply-To")
    ),
    "G15 expired": signed(
        "G15", MailFault.DKIM_TIME, tags={"t": seconds(timedelta(minutes=-9)), "x": seconds(timedelta(minutes=-6))}
    ),
    "G15 from the future": signed("G15", MailFault.DKIM_TIME, tags={"t": seconds(timedelta(minutes=6))}),
    "G15 older than the order": signed(
        "G15", MailFault.DKIM_TIME, tags={"t": seconds(ORDER_CREATED - NOW - timedelta(minutes=11))}
    ),
    "G16 no key": published("G16", MailFault.DKIM_KEY_MISSING),
    "G16 revoked": published("G16", MailFault.DKIM_KEY_REVOKED, b"v=DKIM1; p="),
    "G16 testing": published("G16", MailFault.DKIM_KEY_TESTING, rsa_key().record("t=y; ")),
    "G16 two keys": published("G16", MailFault.DKIM_KEY_UNUSABLE, rsa_key().record(), rsa_key("other").record()),
    "G16 short by policy": Flip("G16", MailFault.DKIM_KEY_TOO_SHORT, changes={"authority": {"minimum_rsa_bits": 3072}}),
    "G16 SERVFAIL": Flip("G16", Reason.DKIM_TEMPERROR, prepare=deferred("servfail"), **DOUBT),
    "G16 silence": Flip(
        "G16", Reason.DKIM_TEMPERROR, prepare=deferred("timeout"), changes={"dns_timeout": "200ms"}, **DOUBT
    ),
    "G18 body changed": Flip("G18", MailFault.DKIM_SIGNATURE, raw=lambda: good_mail().signed() + b"P.S.\r\n"),
    "G18 another's key": published("G18", MailFault.DKIM_SIGNATURE, rsa_key("stranger").record()),
    "G19 elsewhere": mail("G19", Reason.REPLY_TO_FOREIGN, ("Reply-To", " x@victim.example")),
    "G19 ourselves": mail(
        "G19",
        Reason.REPLY_TO_FOREIGN,
        ("Reply-To", f" {OTHER_MAILBOX}"),
        changes={"authority": {"reply_to_domains": ["example.com"]}},
    ),
    "G19 malformed": mail("G19", MailFault.REPLY_TO_MALFORMED, ("Reply-To", " x@y, z@y")),
    "G20 answered": Flip(
        "G20",
        Reason.ANSWERED_ALREADY,
        prepare=lambda bench: (bench.expect(), bench.decide()),
        alert=False,
        event="challenge-duplicate",
        disposition="discard",
    ),
    "G21 a fourth challenge": Flip("G21", Reason.TOO_MANY_CHALLENGES, prepare=answer_three),
    "G22 observing": quiet("G22", Reason.OBSERVING, changes=OBSERVE, event="challenge-observed"),
}


@pytest.mark.parametrize("name", FLIPS)
def test_one_condition_flipped_alone(make_bench: MakeBench, name: str, caplog: pytest.LogCaptureFixture) -> None:
    flip = FLIPS[name]
    bench = make_bench(**flip.changes)
    flip.prepare(bench)
    before, announced = bench.contents(), len(bench.replies_due)
    caplog.clear()
    with caplog.at_level("INFO", logger="acme_milter"):
        decision = bench.decide(flip.raw(), *flip.recipients, **flip.arguments)
    assert (decision.disposition, decision.reason) == (flip.disposition, flip.reason)
    (line,) = caplog.messages
    assert line.startswith(f"{QUEUE_ID}: {flip.event} rcpt=<{','.join(flip.recipients)}> mail_from=<{SENDER}> ")
    assert f" condition={flip.condition} reason={flip.reason}" in line
    assert line.endswith("action=deliver alert=1" if flip.alert else f"action={_action(flip)}")
    assert TOKEN_PART1 not in line
    after = bench.contents()
    doubts = after.pop("doubt")
    assert len(doubts) == (1 if flip.disposition == "tempfail" else 0)
    assert after == {table: rows for table, rows in before.items() if table != "doubt"}
    assert len(bench.replies_due) == announced


def _action(flip: Flip) -> str:
    return "deliver" if flip.disposition == "accept" else flip.disposition


def test_g23_a_store_that_cannot_be_written_puts_the_mail_off(
    make_bench: MakeBench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acme_milter.store.database.BUSY_TIMEOUT_MS", 50)
    bench = make_bench()
    bench.expect()
    before = bench.contents()
    with bench.locked(), caplog.at_level("INFO", logger="acme_milter"):
        decision = bench.decide()
    assert (decision.disposition, decision.reason) == ("tempfail", Reason.STORE_UNAVAILABLE)
    assert " condition=G23 reason=store-unavailable action=tempfail" in caplog.messages[-1]
    assert bench.contents() == before
    assert bench.decide().reason == Reason.ACCEPTED


def test_g24_a_decision_that_postfix_no_longer_waits_for_is_not_acted_upon(
    make_bench: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make_bench(milter={"deadline": "1ms"})
    bench.expect()
    before = bench.contents()
    with caplog.at_level("INFO", logger="acme_milter"):
        decision = bench.decide()
    assert (decision.disposition, decision.reason) == ("tempfail", Reason.TOO_SLOW)
    assert " condition=G24 reason=too-slow action=tempfail" in caplog.messages[-1]
    after = bench.contents()
    assert len(after.pop("doubt")) == 1
    assert after == {table: rows for table, rows in before.items() if table != "doubt"}


def test_g25_a_policy_that_keeps_a_copy_answers_and_delivers(
    make_bench: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make_bench(defaults={"on_success": "deliver"})
    enrollment = bench.expect()
    with caplog.at_level("INFO", logger="acme_milter"):
        decision = bench.decide()
    assert (decision.disposition, decision.reason) == ("accept", Reason.ACCEPTED)
    assert caplog.messages[-1].endswith("action=deliver")
    assert len(bench.outbox_of(enrollment)) == 1
    # The first copy may not have reached the inbox, so the second is not swallowed either.
    again = bench.decide()
    assert (again.disposition, again.reason) == ("accept", Reason.ANSWERED_ALREADY)
    assert len(bench.outbox_of(enrollment)) == 1


def test_an_unforeseen_fault_of_ours_delivers_the_mail(
    bench: IntakeBench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: Database) -> None:
        raise RuntimeError("LgYemJLy3F1LDkiJrdIGbEzyFJyOyf6vBdyZ1TG3sME=")

    monkeypatch.setattr(Database, "read", broken)
    with caplog.at_level("INFO", logger="acme_milter"):
        decision = bench.decide()
    assert (decision.disposition, decision.reason) == ("accept", Reason.INTERNAL)
    assert "internal-error" in caplog.text
    assert TOKEN_PART1 not in caplog.text
