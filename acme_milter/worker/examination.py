# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate's judgement of a saved mail, condition by condition; for people, so nothing is stored and nothing sent.

Where intake stops at the first condition that does not hold, this goes on wherever what follows can still be judged.
"""

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from acme_milter.config.schema import Config
from acme_milter.enrollment import gate
from acme_milter.enrollment.conditions import CONDITIONS, SMIME_CONDITIONS, Outcome, Reason, Stopped, stopped_by
from acme_milter.enrollment.gate import Envelope, Expectation, Terms
from acme_milter.protocol.challenge_mail import ChallengeMail, parse_challenge_mail
from acme_milter.protocol.dkim_policy import Verdict
from acme_milter.protocol.faults import MailRefused
from acme_milter.protocol.smime_verdict import SmimeVerdict
from acme_milter.worker.dkim_verifier import DkimVerifier
from acme_milter.worker.smime_verifier import SmimeVerifier

FORM = ("G3", "G4", "G5", "G6", "G7", "G8", "G9", "G11")
"""What can be read off the mail alone, in the order in which it is."""

SIGNATURE = ("G12", "G13", "G14", "G15", "G16", "G17", "G18")

SMIME = tuple(SMIME_CONDITIONS)


class Result(enum.StrEnum):
    """What became of one condition."""

    HOLDS = "holds"
    FAILS = "fails"
    DOUBT = "doubt"
    NOT_REACHED = "not reached"
    NOT_TRIED = "not tried"
    NOT_NEEDED = "not needed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One condition, e.g. "G14", with what became of it; ``detail`` names the header, and the key that relaxes it.

    DKIM or S/MIME is enough: what fails of the one is not needed where the other holds.
    """

    condition: str
    result: Result
    detail: str = ""

    @property
    def text(self) -> str:
        """What the condition demands."""
        return (CONDITIONS | SMIME_CONDITIONS)[self.condition]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """Everything the judgement of one mail rests on.

    ``expectations`` are the recipient's orders, or None when no store was at hand; ``terms`` are those of the
    authority that is assumed to have sent the mail if no order says which one it was.
    """

    config: Config
    verifier: DkimVerifier
    smime: SmimeVerifier
    expectations: list[Expectation] | None
    terms: Terms
    now: datetime

    def judge(self, raw: bytes, recipient: str) -> list[Finding]:
        """All conditions in their order; those of S/MIME only where the authority's configuration accepts it."""
        found = {finding.condition: finding for finding in self._judge(raw, recipient)}
        names = list(CONDITIONS)
        if self._accepts_smime or any(name in found for name in SMIME):
            place = names.index("G19")
            names[place:place] = SMIME
        return [found.get(name, Finding(name, Result.NOT_REACHED)) for name in names]

    @property
    def _accepts_smime(self) -> bool:
        return self.terms.smime_trust is not None

    def _judge(self, raw: bytes, recipient: str) -> Iterator[Finding]:
        envelope = Envelope(sender="", recipients=(recipient,), authenticated=False, queue_id=None)
        yield from _group(("G1", "G2"), lambda: gate.check_envelope(envelope, self.config.canonical))
        try:
            mail = parse_challenge_mail(raw, require_auto_submitted=False)
        except MailRefused as refused:
            yield from _stopped(FORM, stopped_by(refused))
            return
        yield from _group(FORM, lambda: self._check_form(mail, recipient))
        expected: list[Expectation] = []
        if self.expectations is None:
            yield Finding("G10", Result.NOT_TRIED, "there is no store to look for an order in")
        else:
            orders = self.expectations
            yield from _group(("G10",), lambda: expected.append(gate.match_expectation(mail, orders, self.now)))
        terms = expected[0].terms if expected else self.terms
        not_before = expected[0].began_ordering_at if expected else None
        verdict = self.verifier.verify(
            mail,
            coverage=terms.coverage,
            now=self.now,
            not_before=not_before,
            minimum_rsa_bits=terms.minimum_rsa_bits,
        )
        smime = self._smime_verdict(mail, terms, not_before)
        yield from _proof(verdict, smime)
        if smime is not None and smime.passed and not verdict.passed and expected:
            yield from _group(SMIME[-1:], lambda: gate.check_replay(smime, expected[0]))
        yield from _group(("G19",), lambda: gate.check_reply_to(mail, terms, self.config.canonical))
        if expected:
            yield from _group(("G20", "G21"), lambda: gate.check_answers(mail, expected[0]))
        yield from _group(("G22",), lambda: self._check_mode(recipient))
        for name in ("G23", "G24", "G25"):
            yield Finding(name, Result.NOT_TRIED, "a saved mail is neither answered nor suppressed")

    def _smime_verdict(self, mail: ChallengeMail, terms: Terms, not_before: datetime | None) -> SmimeVerdict | None:
        if terms.smime_trust is None:
            return None
        return self.smime.verify(mail, trust=terms.smime_trust, now=self.now, not_before=not_before)

    def _check_form(self, mail: ChallengeMail, recipient: str) -> None:
        gate.check_auto_submitted(mail, self.terms)
        gate.check_recipient(mail, self.config.canonical(recipient) or recipient, self.config.canonical)

    def _check_mode(self, recipient: str) -> None:
        policy = self.config.policy_for(recipient)
        if policy is not None and policy.mode == "observe":
            raise Stopped("G22", Outcome.DELIVER, Reason.OBSERVING, "mode: observe answers and suppresses nothing")


def _proof(dkim: Verdict, smime: SmimeVerdict | None) -> Iterator[Finding]:
    """G12 to G18, and S1 to S7 where they count; one of the two proves the mail."""
    by_dkim = list(_group(SIGNATURE, lambda: gate.check_verdict(dkim)))
    if smime is None:
        yield from by_dkim
        return
    by_smime = list(_group(SMIME, lambda: gate.check_smime_verdict(smime)))
    yield from _spared(by_dkim) if smime.passed else by_dkim
    yield from _spared(by_smime) if dkim.passed else by_smime


def _spared(findings: list[Finding]) -> Iterator[Finding]:
    for finding in findings:
        holds = finding.result is Result.HOLDS
        yield finding if holds else Finding(finding.condition, Result.NOT_NEEDED, finding.detail)


def _group(names: tuple[str, ...], check: Callable[[], object]) -> Iterator[Finding]:
    """Conditions that one check decides together, in the order in which it looks at them."""
    try:
        check()
    except Stopped as stopped:
        yield from _stopped(names, stopped)
    else:
        for name in names:
            yield Finding(name, Result.HOLDS)


def _stopped(names: tuple[str, ...], stopped: Stopped) -> Iterator[Finding]:
    result = Result.DOUBT if stopped.outcome is Outcome.TRY_LATER else Result.FAILS
    detail = f"{stopped.reason}: {stopped.detail}" if stopped.detail else str(stopped.reason)
    for name in names:
        if name == stopped.condition:
            yield Finding(name, result, detail)
            return
        yield Finding(name, Result.HOLDS)
    yield Finding(stopped.condition, result, detail)
