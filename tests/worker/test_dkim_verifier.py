# SPDX-License-Identifier: GPL-3.0-or-later
"""Verdicts: which word of RFC 8601 goes with which fault, what is reported, and how long it may take."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from acme_milter.protocol.challenge_mail import parse_challenge_mail
from acme_milter.protocol.dkim_policy import HeaderCoverage, Verdict, VerdictResult
from acme_milter.protocol.faults import MailFault
from acme_milter.worker.dkim_verifier import ArithmeticPool, DkimVerifier
from acme_milter.worker.key_lookup import KeyLookup
from tests.protocol.key_server import KeyServer, Misbehaviour
from tests.protocol.mail_case import Judge, judge
from tests.protocol.sample_mail import (
    CA_DOMAIN,
    NOW,
    ORDER_CREATED,
    SampleKey,
    SignatureSpec,
    ed25519_key,
    good_mail,
    good_zone,
    rsa_key,
)


@pytest.fixture(scope="module")
def bench() -> Iterator[Judge]:
    with judge(children=2) as made:
        yield made


@pytest.fixture(autouse=True)
def zone(bench: Judge) -> None:
    bench.server.zone = good_zone()
    bench.server.questions.clear()


def verdict(bench: Judge, raw: bytes, coverage: HeaderCoverage = HeaderCoverage.STRICT) -> Verdict:
    mail = parse_challenge_mail(raw)
    return bench.verifier.verify(mail, coverage=coverage, now=NOW, not_before=ORDER_CREATED)


def test_good_mail_passes_with_the_signature_that_proved_it(bench: Judge) -> None:
    found = verdict(bench, good_mail().signed(SignatureSpec(domain="relay.example"), SignatureSpec()))
    assert (found.result, found.fault, found.passed) == (VerdictResult.PASS, None, True)
    assert found.signature is not None
    assert (found.signature.index, found.signature.domain, found.signature.selector) == (1, CA_DOMAIN, "rsa")


@pytest.mark.parametrize(
    ("raw", "records", "result", "fault"),
    [
        (good_mail().raw(), None, VerdictResult.NONE, MailFault.DKIM_NONE),
        (good_mail().signed(SignatureSpec(domain="x.example")), None, VerdictResult.FAIL, MailFault.DKIM_DOMAIN),
        (good_mail().signed(SignatureSpec(tags={"v": "2"})), None, VerdictResult.PERMERROR, MailFault.DKIM_TAGS),
        (good_mail().signed() + b"x\r\n", None, VerdictResult.FAIL, MailFault.DKIM_SIGNATURE),
        (good_mail().signed(), Misbehaviour.NO_DATA, VerdictResult.FAIL, MailFault.DKIM_KEY_MISSING),
        (good_mail().signed(), Misbehaviour.SERVFAIL, VerdictResult.TEMPERROR, MailFault.DKIM_LOOKUP_DEFERRED),
        (good_mail().signed(), Misbehaviour.SILENCE, VerdictResult.TEMPERROR, MailFault.DKIM_LOOKUP_DEFERRED),
        (good_mail().signed(), [b"p=x"], VerdictResult.PERMERROR, MailFault.DKIM_KEY_UNUSABLE),
        (good_mail().signed(), [b"p="], VerdictResult.FAIL, MailFault.DKIM_KEY_REVOKED),
    ],
    ids=lambda value: str(value) if isinstance(value, MailFault) else "",
)
def test_each_fault_has_its_word(
    bench: Judge, raw: bytes, records: list[bytes] | Misbehaviour | None, result: VerdictResult, fault: MailFault
) -> None:
    if records is not None:
        bench.server.zone = {f"rsa._domainkey.{CA_DOMAIN}": records}
    found = verdict(bench, raw)
    assert (found.result, found.fault, found.passed) == (result, fault, False)
    assert found.detail


def test_first_signatures_failure_is_reported_when_none_passes(bench: Judge) -> None:
    found = verdict(bench, good_mail().signed(SignatureSpec(names=("From",)), SignatureSpec(tags={"b": "A" * 344})))
    assert found.fault is MailFault.DKIM_COVERAGE
    assert found.signature is not None
    assert found.signature.index == 0


def test_doubt_about_one_signature_outweighs_the_failure_of_another(bench: Judge) -> None:
    """SERVFAIL for the one that might have been good: the mail must be tried again, not given up."""
    bench.server.zone = {**good_zone(), f"ed._domainkey.{CA_DOMAIN}": Misbehaviour.SERVFAIL}
    found = verdict(bench, good_mail().signed(SignatureSpec(tags={"b": "A" * 344}), SignatureSpec(key=ed25519_key())))
    assert found.result is VerdictResult.TEMPERROR


def test_key_is_not_asked_for_when_the_policy_fails_before(bench: Judge) -> None:
    verdict(bench, good_mail().signed(SignatureSpec(names=("From",)), SignatureSpec(domain="x.example")))
    assert bench.server.questions == []


def test_three_silent_signatures_cost_no_more_time_than_one_mail_may() -> None:
    with KeyServer() as server, ArithmeticPool(1) as pool:
        slow = Judge(server, DkimVerifier(pool, KeyLookup([server.address]), lookup_seconds=1.0))
        specs = [SignatureSpec(key=SampleKey(f"s{number}", rsa_key().private)) for number in range(3)]
        slow.server.zone = {f"s{number}._domainkey.{CA_DOMAIN}": Misbehaviour.SILENCE for number in range(3)}
        started = time.monotonic()
        found = verdict(slow, good_mail().signed(*specs))
        assert time.monotonic() - started < 2.5
        assert found.result is VerdictResult.TEMPERROR


def test_fifty_signatures_cause_three_lookups_at_most(bench: Judge) -> None:
    specs = [SignatureSpec(key=SampleKey(f"s{number}", rsa_key().private)) for number in range(50)]
    assert verdict(bench, good_mail().signed(*specs)).fault is MailFault.DKIM_KEY_MISSING
    assert len(bench.server.questions) == 3


def test_many_threads_share_one_verifier(bench: Judge) -> None:
    good, bad = good_mail().signed(), good_mail().signed() + b"x\r\n"
    with ThreadPoolExecutor(16) as executor:
        answers = executor.map(lambda number: verdict(bench, bad if number % 4 == 0 else good).passed, range(100))
        assert list(answers) == [number % 4 != 0 for number in range(100)]


def test_verdict_holds_no_token(bench: Judge) -> None:
    assert "LgYemJ" not in repr(verdict(bench, good_mail().signed() + b"x\r\n"))
