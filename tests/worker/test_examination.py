# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate's judgement for people: where intake stops, this names the same condition, and goes on."""

from collections.abc import Callable
from typing import Any

import pytest

from acme_milter.enrollment.conditions import CONDITIONS, SMIME_CONDITIONS
from acme_milter.enrollment.gate import Expectation
from acme_milter.protocol.challenge_mail import parse_challenge_mail
from acme_milter.protocol.faults import MailRefused
from acme_milter.worker.examination import Examination, Finding, Result
from acme_milter.worker.expectations import expectations_of
from acme_milter.worker.terms import terms_of
from tests.protocol.sample_mail import CA_DOMAIN, RECIPIENT, STRICT_NAMES, TOKEN_PART1, SignatureSpec, good_mail
from tests.worker.conftest import MakeBench
from tests.worker.intake_bench import OTHER_MAILBOX, IntakeBench, token

SELECTOR = f"rsa._domainkey.{CA_DOMAIN}"
NEVER_TRIED = {"G23", "G24", "G25"}


def _token_digest(raw: bytes) -> bytes:
    try:
        return parse_challenge_mail(raw, require_auto_submitted=False).token_part1.digest()
    except MailRefused:
        return b""


def judge(bench: IntakeBench, raw: bytes, recipient: str = RECIPIENT, *, with_store: bool = True) -> dict[str, Finding]:
    orders: list[Expectation] | None = None
    if with_store:
        mailbox = bench.config.canonical(recipient) or recipient
        orders = expectations_of(bench.database, bench.config, mailbox, bench.clock(), _token_digest(raw))
    examination = Examination(
        config=bench.config,
        verifier=bench.verifier,
        smime=bench.smime,
        expectations=orders,
        terms=terms_of(bench.config.authorities["ca"]),
        now=bench.clock(),
    )
    found = examination.judge(raw, recipient)
    assert [finding.condition for finding in found if finding.condition[0] == "G"] == list(CONDITIONS)
    accepts = bench.config.authorities["ca"].accept_smime_signed
    assert [finding.condition for finding in found if finding.condition in SMIME_CONDITIONS] == (
        list(SMIME_CONDITIONS) if accepts else []
    )
    assert TOKEN_PART1 not in repr(found)
    return {finding.condition: finding for finding in found}


def test_a_good_mail_holds_everywhere(bench: IntakeBench) -> None:
    found = judge(bench, good_mail().signed())
    assert {name for name, finding in found.items() if finding.result is not Result.HOLDS} == NEVER_TRIED
    assert {found[name].result for name in NEVER_TRIED} == {Result.NOT_TRIED}


def test_looking_leaves_no_trace(bench: IntakeBench) -> None:
    before = bench.contents()
    judge(bench, good_mail().signed())
    bench.names.set_fault(SELECTOR, "servfail")
    judge(bench, good_mail().signed())
    assert bench.contents() == before


def unsigned() -> bytes:
    return good_mail().raw()


def signed_by(**spec: Any) -> Callable[[], bytes]:
    return lambda: good_mail().signed(SignatureSpec(**spec))


FAULTS: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "two Subjects": (lambda: good_mail().top("Subject", " x").signed(), "G4", "Subject occurs more than once"),
    "a reply": (lambda: good_mail().set("Subject", " Re: ACME: x").signed(), "G6", "subject-not-challenge"),
    "no Auto-Submitted": (
        lambda: good_mail().drop("Auto-Submitted").signed(),
        "G7",
        "require_auto_submitted: false",
    ),
    "another To": (lambda: good_mail().set("To", f" {OTHER_MAILBOX}").signed(), "G9", "recipient-mismatch"),
    "another sender": (
        lambda: good_mail().set("From", f" other@{CA_DOMAIN}").signed(),
        "G10",
        "no open order of ours expects it",
    ),
    "no signature": (unsigned, "G12", "dkim-none"),
    "rsa-sha1": (signed_by(tags={"a": "rsa-sha1"}), "G13", "dkim-algorithm"),
    "present names only": (
        signed_by(names=tuple(name for name in STRICT_NAMES if name != "Sender")),
        "G14",
        "relaxed by dkim_headers: present",
    ),
    "long expired": (signed_by(tags={"t": "1", "x": "2"}), "G15", "dkim-time"),
    "no key": (signed_by(domain=CA_DOMAIN, tags={"s": "absent"}), "G16", "dkim-key-missing"),
    "changed": (lambda: good_mail().signed() + b"P.S.\r\n", "G18", "dkim-signature"),
    "Reply-To elsewhere": (
        lambda: good_mail().set("Reply-To", " x@elsewhere.example").signed(),
        "G19",
        "reply_to_domains",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_condition_that_fails_is_named_with_what_would_relax_it(bench: IntakeBench, name: str) -> None:
    make, condition, words = FAULTS[name]
    found = judge(bench, make())
    assert found[condition].result is Result.FAILS
    assert words in found[condition].detail
    failing = [one for one, finding in found.items() if finding.result is Result.FAILS]
    assert failing == [condition]


@pytest.mark.parametrize("name", FAULTS)
def test_people_and_milters_are_told_of_the_same_condition(
    bench: IntakeBench, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, condition, _ = FAULTS[name]
    with caplog.at_level("INFO", logger="acme_milter"):
        bench.decide(make())
    assert f" condition={condition} " in caplog.messages[-1]


def test_what_cannot_be_known_now_is_a_doubt(bench: IntakeBench) -> None:
    bench.names.set_fault(SELECTOR, "servfail")
    found = judge(bench, good_mail().signed())
    assert (found["G16"].result, found["G18"].result) == (Result.DOUBT, Result.NOT_REACHED)


def test_an_order_under_way_is_a_doubt(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.begin()
    assert judge(bench, good_mail().signed())["G10"].result is Result.DOUBT


def test_without_a_store_all_but_the_orders_is_judged(bench: IntakeBench) -> None:
    found = judge(bench, good_mail().signed(), with_store=False)
    assert found["G10"].result is Result.NOT_TRIED
    assert {found[name].result for name in ("G20", "G21")} == {Result.NOT_REACHED}
    assert found["G18"].result is Result.HOLDS


def test_the_history_of_the_order_counts(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.expect()
    for number in range(3):
        bench.decide(good_mail(token(number)).signed())
    assert judge(bench, good_mail(token(1)).signed())["G20"].result is Result.FAILS
    fourth = judge(bench, good_mail(token(4)).signed())
    assert (fourth["G20"].result, fourth["G21"].result) == (Result.HOLDS, Result.FAILS)


def test_a_mailbox_that_is_not_managed_fails_at_once_and_the_rest_is_judged(bench: IntakeBench) -> None:
    found = judge(bench, good_mail().set("To", " carol@example.com").signed(), "carol@example.com")
    assert (found["G2"].result, found["G10"].result) == (Result.FAILS, Result.FAILS)
    assert found["G18"].result is Result.HOLDS


def test_observing_is_named(make_bench: MakeBench) -> None:
    bench = make_bench(defaults={"mode": "observe"})
    bench.expect()
    found = judge(bench, good_mail().signed())
    assert found["G22"].result is Result.FAILS
    assert "mode: observe" in found["G22"].detail
