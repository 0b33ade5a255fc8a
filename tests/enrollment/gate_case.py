# SPDX-License-Identifier: GPL-3.0-or-later
"""What the gate's own conditions look at, as one value that a test changes in one place."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

from acme_milter.enrollment import gate
from acme_milter.enrollment.conditions import stopped_by
from acme_milter.enrollment.gate import Envelope, Expectation, Terms
from acme_milter.enrollment.model import State
from acme_milter.protocol.challenge_mail import ChallengeMail, parse_challenge_mail
from acme_milter.protocol.dkim_policy import HeaderCoverage, Verdict, VerdictResult
from acme_milter.protocol.faults import MailFault, MailRefused
from acme_milter.protocol.mailbox import Mailbox
from acme_milter.protocol.smime_verdict import SmimeVerdict
from tests.protocol.sample_mail import CA_DOMAIN, NOW, RECIPIENT, SENDER, SampleMail, good_mail

OTHER = "bob@example.com"
MANAGED = {RECIPIENT: RECIPIENT, OTHER: OTHER, f"desk@{CA_DOMAIN}": f"desk@{CA_DOMAIN}"}


def canonical(address: str) -> str | None:
    return MANAGED.get(address.lower())


def read(mail: SampleMail) -> ChallengeMail:
    return parse_challenge_mail(mail.raw(), require_auto_submitted=False)


_ENVELOPE = Envelope(sender=SENDER, recipients=(RECIPIENT,), authenticated=False, queue_id="4Q")
_TERMS = Terms(
    coverage=HeaderCoverage.STRICT,
    require_auto_submitted=True,
    reply_to_domains=frozenset({"replies.example"}),
    minimum_rsa_bits=1024,
)
_PASS = Verdict(VerdictResult.PASS, None, "", None)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Everything that the gate's own conditions look at; as it stands, all of them hold."""

    envelope: Envelope = _ENVELOPE
    mail: SampleMail = field(default_factory=good_mail)
    terms: Terms = _TERMS
    state: State = State.AWAITING_MAIL
    sender: str | None = SENDER
    age: timedelta = timedelta(minutes=1)
    answered: frozenset[bytes] = frozenset()
    verdict: Verdict = _PASS
    smime: SmimeVerdict | None = None

    def expectation(self) -> Expectation:
        return Expectation(
            enrollment_id="e1",
            authority="ca",
            state=self.state,
            sender=None if self.sender is None else Mailbox.parse(self.sender),
            began_ordering_at=NOW - self.age,
            answered=self.answered,
            terms=self.terms,
        )

    def pass_gate(self) -> Expectation:
        """The conditions in the gate's order; raises the first Stopped."""
        mailbox = gate.check_envelope(self.envelope, canonical)
        try:
            mail = read(self.mail)
        except MailRefused as refused:
            raise stopped_by(refused) from None
        gate.check_recipient(mail, mailbox, canonical)
        expected = gate.match_expectation(mail, [self.expectation()], NOW)
        gate.check_auto_submitted(mail, expected.terms)
        gate.check_proof(self.verdict, self.smime)
        gate.check_reply_to(mail, expected.terms, canonical)
        gate.check_answers(mail, expected)
        return expected


GOOD = Case()
OWN_DIGEST = read(good_mail()).token_part1.digest()
STRANGERS = frozenset({b"1", b"2", b"3"})


def failing(result: VerdictResult, fault: MailFault) -> Case:
    return replace(GOOD, verdict=Verdict(result, fault, "why", None))


def by_smime(fault: MailFault | None, dkim: MailFault = MailFault.DKIM_NONE) -> Case:
    """Not proven by DKIM, and this is what S/MIME says."""
    return replace(failing(VerdictResult.FAIL, dkim), smime=SmimeVerdict(fault, "therefore"))


def to(*recipients: str) -> Case:
    return replace(GOOD, envelope=replace(GOOD.envelope, recipients=recipients))


def mail(change: Callable[[SampleMail], SampleMail]) -> Case:
    return replace(GOOD, mail=change(good_mail()))
