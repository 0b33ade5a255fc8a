# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate's own conditions, each flipped alone: everything holds, then one thing is changed."""

import ast
import dataclasses
import inspect
from dataclasses import replace
from datetime import timedelta

import pytest

import acme_milter.worker.intake
from acme_milter.enrollment import gate
from acme_milter.enrollment.conditions import (
    ANSWERS_PER_ORDER,
    CONDITION_OF,
    CONDITIONS,
    SMIME_CONDITIONS,
    Outcome,
    Reason,
    Stopped,
    stopped_by,
)
from acme_milter.enrollment.gate import CHALLENGE_LIFETIME
from acme_milter.enrollment.model import CHALLENGED_STATES, State
from acme_milter.protocol.dkim_policy import VerdictResult
from acme_milter.protocol.faults import MailFault, MailRefused
from acme_milter.protocol.mailbox import Mailbox
from tests.enrollment.gate_case import GOOD, OTHER, OWN_DIGEST, STRANGERS, Case, by_smime, failing, mail, read, to
from tests.protocol.sample_mail import CA_DOMAIN, NOW, RECIPIENT, SENDER, TOKEN_PART1, good_mail

DELIVER, ALERT, LATER = Outcome.DELIVER, Outcome.DELIVER_AND_ALERT, Outcome.TRY_LATER

FLIPS: dict[str, tuple[Case, str, Outcome, Reason | MailFault]] = {
    "a user sends it": (
        replace(GOOD, envelope=replace(GOOD.envelope, authenticated=True)),
        "G1",
        DELIVER,
        Reason.NOT_FROM_OUTSIDE,
    ),
    "no recipient at all": (to(), "G2", DELIVER, Reason.NOT_MANAGED),
    "recipient not managed": (to("carol@example.com"), "G2", DELIVER, Reason.NOT_MANAGED),
    "a part of the address is not the address": (to("alexey+x@example.com"), "G2", DELIVER, Reason.NOT_MANAGED),
    "two recipients, the managed one first": (
        to(RECIPIENT, "carol@example.com"),
        "G2",
        ALERT,
        Reason.SEVERAL_RECIPIENTS,
    ),
    "two recipients, the managed one last": (
        to("carol@example.com", RECIPIENT),
        "G2",
        ALERT,
        Reason.SEVERAL_RECIPIENTS,
    ),
    "two recipients, both managed": (to(RECIPIENT, OTHER), "G2", ALERT, Reason.SEVERAL_RECIPIENTS),
    "the same recipient twice": (to(RECIPIENT, RECIPIENT), "G2", ALERT, Reason.SEVERAL_RECIPIENTS),
    "two recipients, none managed": (to("c@example.com", "d@example.com"), "G2", DELIVER, Reason.NOT_MANAGED),
    "a NUL in the header": (mail(lambda m: m.set("X-A", " \0")), "G3", DELIVER, MailFault.HEADER_CONTROL_CHARACTER),
    "two Subjects": (mail(lambda m: m.top("Subject", " ACME: x")), "G4", ALERT, MailFault.DUPLICATE_HEADER),
    "a list's mail": (mail(lambda m: m.top("List-Id", " <x.example>")), "G5", ALERT, MailFault.LIST_HEADER),
    "a reply to a challenge": (
        mail(lambda m: m.set("Subject", f" Re: ACME: {TOKEN_PART1}")),
        "G6",
        DELIVER,
        MailFault.SUBJECT_NOT_CHALLENGE,
    ),
    "Auto-Submitted absent": (mail(lambda m: m.drop("Auto-Submitted")), "G7", ALERT, MailFault.NOT_AUTO_GENERATED),
    "Auto-Submitted of a reply": (
        mail(lambda m: m.set("Auto-Submitted", " auto-replied")),
        "G7",
        ALERT,
        MailFault.NOT_AUTO_GENERATED,
    ),
    "From with two addresses": (
        mail(lambda m: m.set("From", f" {SENDER}, x@y")),
        "G8",
        ALERT,
        MailFault.FROM_MALFORMED,
    ),
    "To with a group": (mail(lambda m: m.set("To", " all:;")), "G9", ALERT, MailFault.TO_MALFORMED),
    "To is another mailbox of ours": (mail(lambda m: m.set("To", f" {OTHER}")), "G9", ALERT, Reason.RECIPIENT_MISMATCH),
    "To is a stranger": (mail(lambda m: m.set("To", " x@y.example")), "G9", ALERT, Reason.RECIPIENT_MISMATCH),
    "From is not the order's": (replace(GOOD, sender=f"other@{CA_DOMAIN}"), "G10", ALERT, Reason.UNSOLICITED),
    "From differs in the case of its local part": (
        replace(GOOD, sender=SENDER.replace("acme", "ACME")),
        "G10",
        ALERT,
        Reason.UNSOLICITED,
    ),
    "the order is too old": (
        replace(GOOD, age=CHALLENGE_LIFETIME + timedelta(microseconds=1)),
        "G10",
        ALERT,
        Reason.UNSOLICITED,
    ),
    "only the intent is known": (
        replace(GOOD, state=State.ORDERING, sender=None),
        "G10",
        LATER,
        Reason.ORDER_NOT_KNOWN_YET,
    ),
    "the DNS is away": (
        failing(VerdictResult.TEMPERROR, MailFault.DKIM_LOOKUP_DEFERRED),
        "G16",
        LATER,
        Reason.DKIM_TEMPERROR,
    ),
    "no child is free": (
        failing(VerdictResult.TEMPERROR, MailFault.VERIFIER_BUSY),
        "G16",
        LATER,
        Reason.DKIM_TEMPERROR,
    ),
    "no DKIM, and S/MIME by somebody else": (by_smime(MailFault.SMIME_ADDRESS), "S5", ALERT, MailFault.SMIME_ADDRESS),
    "no DKIM, and no child is free for S/MIME": (by_smime(MailFault.SMIME_BUSY), "S3", LATER, Reason.SMIME_TEMPERROR),
    "no DKIM, and smime_trust is away": (
        by_smime(MailFault.SMIME_TRUST_UNREADABLE),
        "S4",
        LATER,
        Reason.SMIME_TEMPERROR,
    ),
    "neither DKIM nor S/MIME": (by_smime(MailFault.SMIME_NONE), "G12", ALERT, MailFault.DKIM_NONE),
    "DKIM is broken, and S/MIME proves nothing": (
        by_smime(MailFault.SMIME_SIGNATURE, MailFault.DKIM_SIGNATURE),
        "G18",
        ALERT,
        MailFault.DKIM_SIGNATURE,
    ),
    "the DNS is away, and S/MIME proves nothing": (
        replace(
            failing(VerdictResult.TEMPERROR, MailFault.DKIM_LOOKUP_DEFERRED),
            smime=by_smime(MailFault.SMIME_ADDRESS).smime,
        ),
        "G16",
        LATER,
        Reason.DKIM_TEMPERROR,
    ),
    "Reply-To elsewhere": (
        mail(lambda m: m.set("Reply-To", " x@victim.example")),
        "G19",
        ALERT,
        Reason.REPLY_TO_FOREIGN,
    ),
    "Reply-To below the From domain": (
        mail(lambda m: m.set("Reply-To", f" x@sub.{CA_DOMAIN}")),
        "G19",
        ALERT,
        Reason.REPLY_TO_FOREIGN,
    ),
    "Reply-To is a mailbox of ours": (
        mail(lambda m: m.set("Reply-To", f" desk@{CA_DOMAIN}")),
        "G19",
        ALERT,
        Reason.REPLY_TO_FOREIGN,
    ),
    "Reply-To malformed": (mail(lambda m: m.set("Reply-To", " nobody:;")), "G19", ALERT, MailFault.REPLY_TO_MALFORMED),
    "answered before": (
        replace(GOOD, answered=frozenset({OWN_DIGEST})),
        "G20",
        Outcome.DUPLICATE,
        Reason.ANSWERED_ALREADY,
    ),
    "answered before, and three in all": (
        replace(GOOD, answered=frozenset({OWN_DIGEST, b"1", b"2"})),
        "G20",
        Outcome.DUPLICATE,
        Reason.ANSWERED_ALREADY,
    ),
    "three others answered": (replace(GOOD, answered=STRANGERS), "G21", ALERT, Reason.TOO_MANY_CHALLENGES),
}


def test_a_mail_for_which_everything_holds_passes() -> None:
    assert GOOD.pass_gate() == GOOD.expectation()


@pytest.mark.parametrize("name", FLIPS)
def test_one_condition_flipped_alone_stops_the_mail(name: str) -> None:
    case, condition, outcome, reason = FLIPS[name]
    with pytest.raises(Stopped) as caught:
        case.pass_gate()
    assert (caught.value.condition, caught.value.outcome, caught.value.reason) == (condition, outcome, reason)


HARMLESS = {
    "envelope in another case": to(RECIPIENT.title()),
    "To in another case": mail(lambda m: m.set("To", f" {RECIPIENT.title()}")),
    "From domain in another case": mail(lambda m: m.set("From", " acme-generator@CA.Example")),
    "just young enough": replace(GOOD, age=CHALLENGE_LIFETIME),
    "two others answered": replace(GOOD, answered=frozenset({b"1", b"2"})),
    "Reply-To in the From domain": mail(lambda m: m.set("Reply-To", f" other@{CA_DOMAIN}")),
    "Reply-To in an allowed domain": mail(lambda m: m.set("Reply-To", " x@Replies.Example")),
    "Auto-Submitted absent where that is allowed": replace(
        mail(lambda m: m.drop("Auto-Submitted")), terms=replace(GOOD.terms, require_auto_submitted=False)
    ),
    "forged results of other programs": mail(
        lambda m: m.top("Authentication-Results", " mx; dkim=fail").top("Received-SPF", " fail").top("X-Spam", " yes")
    ),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_no_condition_stops_nothing(name: str) -> None:
    HARMLESS[name].pass_gate()


@pytest.mark.parametrize("state", State)
def test_only_an_order_whose_challenge_is_open_expects_a_mail(state: State) -> None:
    case = replace(GOOD, state=state)
    if state in CHALLENGED_STATES:
        assert case.pass_gate().state is state
    else:
        with pytest.raises(Stopped) as caught:
            case.pass_gate()
        late = state is State.ORDERING
        assert caught.value.reason is (Reason.ORDER_NOT_KNOWN_YET if late else Reason.UNSOLICITED)


@pytest.mark.parametrize("state", State)
def test_a_second_copy_is_known_whatever_became_of_the_order(state: State) -> None:
    with pytest.raises(Stopped) as caught:
        replace(GOOD, state=state, answered=frozenset({OWN_DIGEST})).pass_gate()
    assert caught.value.outcome is Outcome.DUPLICATE


def test_a_token_answered_for_another_sender_is_no_second_copy() -> None:
    case = replace(GOOD, state=State.ACTIVE, sender=f"other@{CA_DOMAIN}", answered=frozenset({OWN_DIGEST}))
    with pytest.raises(Stopped) as caught:
        case.pass_gate()
    assert caught.value.reason is Reason.UNSOLICITED


def test_of_several_orders_the_one_that_expects_this_sender_is_found() -> None:
    wanted = GOOD.expectation()
    others = [
        dataclasses.replace(wanted, enrollment_id="other-ca", sender=Mailbox.parse("x@other.example")),
        dataclasses.replace(wanted, enrollment_id="ended", state=State.FAILED),
    ]
    for orders in ([*others, wanted], [wanted, *others]):
        assert gate.match_expectation(read(good_mail()), orders, NOW).enrollment_id == "e1"


def test_while_another_order_is_being_placed_no_mail_is_given_to_the_one_that_would_take_it() -> None:
    """Both may have the same sender: an authority and its staging service."""
    rehearsal = GOOD.expectation()
    intent = dataclasses.replace(rehearsal, enrollment_id="e2", state=State.ORDERING, sender=None)
    for orders in ([intent, rehearsal], [rehearsal, intent]):
        with pytest.raises(Stopped) as caught:
            gate.match_expectation(read(good_mail()), orders, NOW)
        assert (caught.value.outcome, caught.value.reason) == (Outcome.TRY_LATER, Reason.ORDER_NOT_KNOWN_YET)


def test_an_order_that_is_not_placed_for_long_holds_up_no_other_orders_mail() -> None:
    wanted = GOOD.expectation()
    began = NOW - gate.INTENT_HOLDS_UP - timedelta(microseconds=1)
    stuck = dataclasses.replace(wanted, enrollment_id="e2", state=State.ORDERING, sender=None, began_ordering_at=began)
    assert gate.match_expectation(read(good_mail()), [stuck, wanted], NOW).enrollment_id == "e1"


def test_a_second_copy_is_known_while_another_order_is_being_placed() -> None:
    answered = dataclasses.replace(GOOD.expectation(), answered=frozenset({OWN_DIGEST}))
    intent = dataclasses.replace(GOOD.expectation(), enrollment_id="e2", state=State.ORDERING, sender=None)
    assert gate.match_expectation(read(good_mail()), [intent, answered], NOW) is answered


def test_without_any_order_a_challenge_is_unsolicited() -> None:
    with pytest.raises(Stopped) as caught:
        gate.match_expectation(read(good_mail()), [], NOW)
    assert (caught.value.outcome, caught.value.reason) == (ALERT, Reason.UNSOLICITED)


@pytest.mark.parametrize("fault", [fault for fault in MailFault if "dkim" in fault or "verifier" in fault])
@pytest.mark.parametrize("result", [VerdictResult.NONE, VerdictResult.FAIL, VerdictResult.PERMERROR])
def test_whatever_dkim_says_but_a_pass_or_a_doubt_is_delivered_with_an_alert(
    result: VerdictResult, fault: MailFault
) -> None:
    with pytest.raises(Stopped) as caught:
        failing(result, fault).pass_gate()
    assert (caught.value.condition, caught.value.outcome, caught.value.reason) == (CONDITION_OF[fault], ALERT, fault)


def test_every_fault_of_a_mail_belongs_to_a_condition_that_has_a_text() -> None:
    assert set(CONDITION_OF) == set(MailFault)
    assert set(CONDITION_OF.values()) <= set(CONDITIONS) | set(SMIME_CONDITIONS)
    for fault in MailFault:
        assert stopped_by(MailRefused(fault, "d")).condition == CONDITION_OF[fault]


def test_the_conditions_are_g1_to_g25_and_each_has_a_text() -> None:
    assert list(CONDITIONS) == [f"G{number}" for number in range(1, 26)]
    assert all(CONDITIONS.values())
    assert str(ANSWERS_PER_ORDER) in CONDITIONS["G21"]


def test_the_conditions_of_smime_are_s1_to_s7_and_each_fault_of_it_belongs_to_one() -> None:
    assert list(SMIME_CONDITIONS) == [f"S{number}" for number in range(1, 8)]
    assert all(SMIME_CONDITIONS.values())
    assert all((CONDITION_OF[fault][0] == "S") == fault.startswith("smime-") for fault in MailFault)


@pytest.mark.parametrize("fault", [fault for fault in MailFault if fault.startswith("smime-")])
def test_no_fault_of_smime_takes_away_what_dkim_has_proven(fault: MailFault) -> None:
    replace(GOOD, smime=by_smime(fault).smime).pass_gate()


@pytest.mark.parametrize("fault", [fault for fault in MailFault if "dkim" in fault or "verifier" in fault])
@pytest.mark.parametrize("result", [result for result in VerdictResult if result is not VerdictResult.PASS])
def test_smime_proves_what_dkim_does_not(result: VerdictResult, fault: MailFault) -> None:
    replace(failing(result, fault), smime=by_smime(None).smime).pass_gate()


def test_both_are_told_of_when_a_mail_has_both_signatures_and_neither_holds() -> None:
    with pytest.raises(Stopped) as caught:
        by_smime(MailFault.SMIME_UNTRUSTED, MailFault.DKIM_SIGNATURE).pass_gate()
    assert caught.value.detail == "why; and by S/MIME, smime-untrusted: therefore"


@pytest.mark.parametrize("fault", MailFault)
def test_only_what_is_no_challenge_at_all_is_delivered_without_an_alert(fault: MailFault) -> None:
    quiet = {
        MailFault.SUBJECT_NOT_CHALLENGE,
        MailFault.HEADER_BLOCK_TOO_LARGE,
        MailFault.TOO_MANY_HEADERS,
        MailFault.HEADER_CONTROL_CHARACTER,
    }
    assert stopped_by(MailRefused(fault, "d")).outcome is (DELIVER if fault in quiet else ALERT)


def test_every_reason_is_given_somewhere() -> None:
    given = {reason for _, _, _, reason in FLIPS.values() if isinstance(reason, Reason)}
    tree = ast.parse(inspect.getsource(acme_milter.worker.intake))
    given |= {
        Reason[node.attr]
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Reason"
    }
    assert given == set(Reason)


def test_what_stops_a_mail_never_quotes_its_token() -> None:
    for case, *_ in FLIPS.values():
        with pytest.raises(Stopped) as caught:
            case.pass_gate()
        assert TOKEN_PART1 not in f"{caught.value} {caught.value.detail} {case.expectation()!r}"
