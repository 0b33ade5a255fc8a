# SPDX-License-Identifier: GPL-3.0-or-later
"""When is a mail our challenge? Twenty-five conditions, the cheap ones first; all must hold before it is answered.

Each condition stops a mail by raising ``Stopped``, which says what becomes of the mail and why. Conditions on the mail
alone live in ``protocol``; this file has the ones that need to know our orders and our policy. Their numbers and names
are in ``conditions``. Who calls what in which order: ``worker.intake``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from acme_milter.enrollment.conditions import ANSWERS_PER_ORDER, CONDITION_OF, Outcome, Reason, Stopped
from acme_milter.enrollment.model import CHALLENGED_STATES, State
from acme_milter.protocol.challenge_mail import ChallengeMail
from acme_milter.protocol.dkim_policy import HeaderCoverage, Verdict, VerdictResult
from acme_milter.protocol.faults import MailFault
from acme_milter.protocol.mailbox import Mailbox
from acme_milter.protocol.smime_verdict import SmimeVerdict

CHALLENGE_LIFETIME = timedelta(hours=24)
"""S/MIME BR 3.2.2.4: a random value is good for at most 24 hours from its creation."""

INTENT_HOLDS_UP = timedelta(minutes=15)
"""So long after it began, an intent keeps a mail from another order that would take it; half of rule T's half hour, so
that an authority that is down costs no other one's mail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What Postfix told of the transaction. Addresses as in the SMTP dialogue, without angle brackets."""

    sender: str
    recipients: tuple[str, ...]
    authenticated: bool
    queue_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an authority's configuration says of its challenge mails.

    ``smime_trust`` is the file of certificates that an S/MIME signature may rest on; None accepts DKIM only.
    """

    coverage: HeaderCoverage
    require_auto_submitted: bool
    reply_to_domains: frozenset[str]
    minimum_rsa_bits: int
    smime_trust: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """An order of ours, as far as a challenge mail can match it.

    ``sender`` is None while only the intent is known: newOrder is under way (the race of RFC 8823's two channels).
    ``answered`` are the digests of the tokens that were answered for it; ``answered_before``: for another order that of
    the mail at hand was.
    """

    enrollment_id: str
    authority: str
    state: State
    sender: Mailbox | None
    began_ordering_at: datetime
    answered: frozenset[bytes] = field(repr=False)
    terms: Terms
    answered_before: bool = False


def check_envelope(envelope: Envelope, canonical: Callable[[str], str | None]) -> str:
    """G1, G2: return the managed mailbox that the mail is for. ``canonical`` finds its configured spelling."""
    if envelope.authenticated:
        raise Stopped("G1", Outcome.DELIVER, Reason.NOT_FROM_OUTSIDE)
    managed = [address for address in map(canonical, envelope.recipients) if address is not None]
    if not managed:
        raise Stopped("G2", Outcome.DELIVER, Reason.NOT_MANAGED)
    if len(envelope.recipients) != 1:
        # DISCARD would take the mail from every recipient, and the token has already been shared among them.
        raise Stopped("G2", Outcome.DELIVER_AND_ALERT, Reason.SEVERAL_RECIPIENTS, f"{len(envelope.recipients)} of them")
    return managed[0]


def check_recipient(mail: ChallengeMail, mailbox: str, canonical: Callable[[str], str | None]) -> None:
    """G9, RFC 8823 §3.1 item 3: To is the address that we ordered for, and that Postfix delivers to."""
    if canonical(str(mail.recipient)) != mailbox:
        raise Stopped("G9", Outcome.DELIVER_AND_ALERT, Reason.RECIPIENT_MISMATCH, "To is not the envelope recipient")


def match_expectation(mail: ChallengeMail, expectations: Sequence[Expectation], now: datetime) -> Expectation:
    """G10: the order that this mail belongs to. RFC 8823 §3 step 5: an unexpected challenge is ignored.

    RFC 8823 §3.1 item 2: From is the challenge's ``from``. Nothing else in the mail names the order, so while another
    order is being placed whose sender may be the same one, as at an authority and its staging service, none is chosen.
    """
    digest = mail.token_part1.digest()
    alive = [expected for expected in expectations if now - expected.began_ordering_at <= CHALLENGE_LIFETIME]
    for expected in alive:
        if digest in expected.answered and expected.sender == mail.sender:
            return expected
    intents = [expected for expected in alive if expected.state is State.ORDERING]
    in_doubt = any(each.sender is None and now - each.began_ordering_at <= INTENT_HOLDS_UP for each in intents)
    for expected in alive:
        if expected.state in CHALLENGED_STATES and expected.sender == mail.sender and not in_doubt:
            return expected
    if intents:
        raise Stopped("G10", Outcome.TRY_LATER, Reason.ORDER_NOT_KNOWN_YET, "newOrder is not answered yet")
    raise Stopped("G10", Outcome.DELIVER_AND_ALERT, Reason.UNSOLICITED, "no open order of ours expects it")


def check_auto_submitted(mail: ChallengeMail, terms: Terms) -> None:
    """G7, RFC 8823 §3.1 item 5. An authority known to leave the header out may be let off by its configuration."""
    if mail.auto_submitted is None and terms.require_auto_submitted:
        detail = "Auto-Submitted is missing; the authority's require_auto_submitted: false would relax this"
        raise Stopped("G7", Outcome.DELIVER_AND_ALERT, MailFault.NOT_AUTO_GENERATED, detail)


def check_reply_to(mail: ChallengeMail, terms: Terms, canonical: Callable[[str], str | None]) -> None:
    """G19: the answer may leave only for the authority, never for a victim, and never for ourselves."""
    if mail.reply_to is None:
        return
    allowed = {mail.sender.domain} | terms.reply_to_domains
    if mail.reply_to.domain not in allowed:
        detail = f"Reply-To is in {mail.reply_to.domain}; the authority's reply_to_domains could allow it"
        raise Stopped("G19", Outcome.DELIVER_AND_ALERT, Reason.REPLY_TO_FOREIGN, detail)
    if canonical(str(mail.reply_to)) is not None:
        raise Stopped("G19", Outcome.DELIVER_AND_ALERT, Reason.REPLY_TO_FOREIGN, "Reply-To is a managed mailbox")


def check_verdict(verdict: Verdict) -> None:
    """G12 to G18: what DKIM says. A doubt is put off, everything but a pass is delivered."""
    if verdict.result is VerdictResult.PASS:
        return
    if verdict.result is VerdictResult.TEMPERROR:
        raise Stopped("G16", Outcome.TRY_LATER, Reason.DKIM_TEMPERROR, verdict.detail)
    fault = verdict.fault or MailFault.DKIM_SIGNATURE
    raise Stopped(CONDITION_OF[fault], Outcome.DELIVER_AND_ALERT, fault, verdict.detail)


def check_smime_verdict(verdict: SmimeVerdict) -> None:
    """S1 to S7: what S/MIME says, by itself."""
    if verdict.passed:
        return
    fault = verdict.fault or MailFault.SMIME_SIGNATURE
    if verdict.doubtful:
        raise Stopped(CONDITION_OF[fault], Outcome.TRY_LATER, Reason.SMIME_TEMPERROR, verdict.detail)
    raise Stopped(CONDITION_OF[fault], Outcome.DELIVER_AND_ALERT, fault, verdict.detail)


def check_replay(smime: SmimeVerdict, expected: Expectation) -> None:
    """S7, of a mail that S/MIME proved: where no signed time says its age, its token must be new to us."""
    if smime.dated or not expected.answered_before:
        return
    detail = "its token was answered for an earlier order, and no signed time says that this mail is a new one"
    raise Stopped("S7", Outcome.DELIVER_AND_ALERT, MailFault.SMIME_TIME, detail)


def check_proof(dkim: Verdict, smime: SmimeVerdict | None) -> None:
    """RFC 8823 §3.1 item 6: DKIM or S/MIME proves the mail. ``smime`` is None where it was not asked.

    When neither does, that one is told of which the mail has a signature; a doubt of either is a doubt.
    """
    if smime is None or smime.fault is MailFault.SMIME_NONE or dkim.passed:
        check_verdict(dkim)
        return
    if smime.passed:
        return
    if dkim.result is VerdictResult.TEMPERROR:
        check_verdict(dkim)
    if smime.doubtful or dkim.fault in {MailFault.DKIM_NONE, MailFault.DKIM_DOMAIN}:
        check_smime_verdict(smime)
    try:
        check_verdict(dkim)
    except Stopped as stopped:
        stopped.detail = f"{stopped.detail}; and by S/MIME, {smime.fault}: {smime.detail}"
        raise


def check_answers(mail: ChallengeMail, expected: Expectation) -> None:
    """G20, G21: RFC 8823 §3 step 6, never answer the same challenge twice, nor ever more of them."""
    if mail.token_part1.digest() in expected.answered:
        raise Stopped("G20", Outcome.DUPLICATE, Reason.ANSWERED_ALREADY)
    if len(expected.answered) >= ANSWERS_PER_ORDER:
        detail = f"{len(expected.answered)} different challenges were answered for this order"
        raise Stopped("G21", Outcome.DELIVER_AND_ALERT, Reason.TOO_MANY_CHALLENGES, detail)
