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
from acme_milter.enrollment.gate import Envelope, Expectation, Outcome, Reason, Stopped, Terms
from acme_milter.protocol.challenge_mail import ChallengeMail, parse_challenge_mail
from acme_milter.protocol.faults import MailRefused
from acme_milter.worker.dkim_verifier import DkimVerifier

FORM = ("G3", "G4", "G5", "G6", "G7", "G8", "G9", "G11")
"""What can be read off the mail alone, in the order in which it is."""

SIGNATURE = ("G12", "G13", "G14", "G15", "G16", "G17", "G18")


class Result(enum.StrEnum):
    """What became of one condition."""

    HOLDS = "holds"
    FAILS = "fails"
    DOUBT = "doubt"
    NOT_REACHED = "not reached"
    NOT_TRIED = "not tried"


@dataclass(frozen=True, slots=True)
class Finding:
    """One condition, e.g. "G14", with what became of it; ``detail`` names the header, and the key that relaxes it."""

    condition: str
    result: Result
    detail: str = ""

    @property
    def text(self) -> str:
        """What the condition demands."""
        return gate.CONDITIONS[self.condition]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """Everything the judgement of one mail rests on.

    ``expectations`` are the recipient's orders, or None when no store was at hand; ``terms`` are those of the
    authority that is assumed to have sent the mail if no order says which one it was.
    """

    config: Config
    verifier: DkimVerifier
    expectations: list[Expectation] | None
    terms: Terms
    now: datetime

    def judge(self, raw: bytes, recipient: str) -> list[Finding]:
        """All conditions in their order."""
        found = {finding.condition: finding for finding in self._judge(raw, recipient)}
        return [found.get(name, Finding(name, Result.NOT_REACHED)) for name in gate.CONDITIONS]

    def _judge(self, raw: bytes, recipient: str) -> Iterator[Finding]:
        envelope = Envelope(sender="", recipients=(recipient,), authenticated=False, queue_id=None)
        yield from _group(("G1", "G2"), lambda: gate.check_envelope(envelope, self.config.canonical))
        try:
            mail = parse_challenge_mail(raw, require_auto_submitted=False)
        except MailRefused as refused:
            yield from _stopped(FORM, gate.stopped_by(refused))
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
        yield from _group(SIGNATURE, lambda: gate.check_verdict(verdict))
        yield from _group(("G19",), lambda: gate.check_reply_to(mail, terms, self.config.canonical))
        if expected:
            yield from _group(("G20", "G21"), lambda: gate.check_answers(mail, expected[0]))
        yield from _group(("G22",), lambda: self._check_mode(recipient))
        for name in ("G23", "G24", "G25"):
            yield Finding(name, Result.NOT_TRIED, "a saved mail is neither answered nor suppressed")

    def _check_form(self, mail: ChallengeMail, recipient: str) -> None:
        gate.check_auto_submitted(mail, self.terms)
        gate.check_recipient(mail, self.config.canonical(recipient) or recipient, self.config.canonical)

    def _check_mode(self, recipient: str) -> None:
        policy = self.config.policy_for(recipient)
        if policy is not None and policy.mode == "observe":
            raise Stopped("G22", Outcome.DELIVER, Reason.OBSERVING, "mode: observe answers and suppresses nothing")


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
