# SPDX-License-Identifier: GPL-3.0-or-later
"""Intake: a candidate from a milter goes through the gate, and what is ours is stored before it is suppressed."""

import contextlib
import hashlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from acme_milter.config.schema import Config
from acme_milter.enrollment import gate
from acme_milter.enrollment.conditions import Outcome, Reason, Stopped, stopped_by
from acme_milter.enrollment.gate import Envelope, Expectation
from acme_milter.eventlog import Event, log_event, log_exception
from acme_milter.protocol.challenge_mail import ChallengeMail, parse_challenge_mail
from acme_milter.protocol.dkim_policy import candidate_signatures
from acme_milter.protocol.doubt import may_be_put_off
from acme_milter.protocol.faults import MailFault, MailRefused
from acme_milter.protocol.smime_structure import looks_signed
from acme_milter.protocol.smime_verdict import SmimeVerdict
from acme_milter.store import challenge_mails, enrollments
from acme_milter.store.database import Database, in_words
from acme_milter.worker.admission import Admission, promise
from acme_milter.worker.answer import Answerer
from acme_milter.worker.dkim_verifier import DkimVerifier
from acme_milter.worker.expectations import expectations_of
from acme_milter.worker.smime_verifier import SmimeVerifier

PATIENCE = 0.75
"""The part of the milter's deadline (8 s) that a mail may wait here for its order's row (G10's race)."""

MOST_WAITING = 4
"""Mails that may wait at once; more get 451 at once, so that forgeries cannot occupy every thread."""

LONGEST_DOUBT = timedelta(minutes=30)
"""Rule T: how long one challenge mail may be put off before it is delivered after all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A mail whose recipient may be managed and whose Subject may be a challenge. ``raw`` is as it arrived."""

    envelope: Envelope
    raw: bytes = field(repr=False)
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What the milter shall do: ``disposition`` is accept, discard or tempfail; ``reason`` is a code of the gate."""

    disposition: str
    reason: str


class Intake:
    """Decides on candidates; any number of threads may call it."""

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        database: Database,
        verifier: DkimVerifier,
        smime: SmimeVerifier,
        answerer: Answerer,
        clock: Callable[[], datetime],
        reply_is_due: Callable[[str], None],
    ) -> None:
        self._config = config
        self._database = database
        self._verifier = verifier
        self._smime = smime
        self._answerer = answerer
        self._clock = clock
        self._reply_is_due = reply_is_due
        self._orders_changed = threading.Condition()
        self._orders_known = 0
        self._waiting = threading.Semaphore(MOST_WAITING)
        self._doubts_without_store: dict[bytes, datetime] = {}
        self._doubts_lock = threading.Lock()

    def order_became_known(self) -> None:
        """Wake mails that wait for their order's row."""
        with self._orders_changed:
            self._orders_known += 1
            self._orders_changed.notify_all()

    def decide(self, candidate: Candidate) -> Decision:
        """Run the gate, store and log. Never raises: a fault of ours delivers the mail."""
        started = time.monotonic()
        patience = self._config().milter.deadline.total_seconds()
        try:
            admission = self.examine(candidate, deadline=started + PATIENCE * patience)
            return self._admit_in_time(candidate, admission, started + patience)
        except Stopped as stopped:
            return self._stop(candidate, stopped)
        except (sa.exc.SQLAlchemyError, sqlite3.Error, OSError) as error:
            log_exception(Event.STORE_UNAVAILABLE, in_words(error), queue_id=candidate.envelope.queue_id)
            return self._stop(candidate, Stopped("G23", Outcome.TRY_LATER, Reason.STORE_UNAVAILABLE))
        except Exception as error:  # noqa: BLE001 the edge of the gate: what we do not understand is delivered
            log_exception(Event.INTERNAL_ERROR, error, queue_id=candidate.envelope.queue_id)
            return Decision("accept", Reason.INTERNAL)

    def examine(self, candidate: Candidate, *, deadline: float) -> Admission:
        """G1 to G22, without a trace in the store. Raises Stopped. ``deadline`` is of ``time.monotonic``."""
        config = self._config()
        mailbox = gate.check_envelope(candidate.envelope, config.canonical)
        policy = config.policy_for(mailbox)
        if policy is None:  # the configuration was swapped between two lines
            raise Stopped("G2", Outcome.DELIVER, Reason.NOT_MANAGED)
        mail = _parse(candidate)
        gate.check_recipient(mail, mailbox, config.canonical)
        expected = self._await_expectation(mail, mailbox, deadline)
        gate.check_auto_submitted(mail, expected.terms)
        verdict = self._verifier.verify(
            mail,
            coverage=expected.terms.coverage,
            now=self._clock(),
            not_before=expected.began_ordering_at,
            minimum_rsa_bits=expected.terms.minimum_rsa_bits,
        )
        smime = None if verdict.passed else self._smime_verdict(mail, expected)
        gate.check_proof(verdict, smime)
        if smime is not None:
            gate.check_replay(smime, expected)
        gate.check_reply_to(mail, expected.terms, config.canonical)
        gate.check_answers(mail, expected)
        if policy.mode == "observe":
            raise Stopped("G22", Outcome.DELIVER, Reason.OBSERVING, "mode: observe answers and suppresses nothing")
        return Admission(mailbox=mailbox, policy=policy, mail=mail, expected=expected, verdict=verdict, smime=smime)

    def _smime_verdict(self, mail: ChallengeMail, expected: Expectation) -> SmimeVerdict | None:
        """None where the authority's configuration accepts DKIM only."""
        if expected.terms.smime_trust is None:
            return None
        return self._smime.verify(
            mail, trust=expected.terms.smime_trust, now=self._clock(), not_before=expected.began_ordering_at
        )

    def _await_expectation(self, mail: ChallengeMail, mailbox: str, deadline: float) -> Expectation:
        """G10 with its race rule: an intent without its order's row yet is worth waiting for."""
        digest = mail.token_part1.digest()
        while True:
            seen = self._orders_known
            try:
                known = expectations_of(self._database, self._config(), mailbox, self._clock(), digest)
                return gate.match_expectation(mail, known, self._clock())
            except Stopped as stopped:
                remaining = deadline - time.monotonic()
                if stopped.reason is not Reason.ORDER_NOT_KNOWN_YET or remaining <= 0:
                    raise
                smime = _accepts_smime(self._config(), mailbox)
                if not (smime and looks_signed(mail.headers)):
                    _check_provable(mail)
                if not may_be_put_off(mail.raw, smime=smime) or not self._waiting.acquire(blocking=False):
                    raise
            try:
                self._wait_for_orders(seen, min(remaining, 0.5))
            finally:
                self._waiting.release()

    def _wait_for_orders(self, seen: int, seconds: float) -> None:
        """Until an order's row was committed since ``seen``; a worker on another host may do so without telling."""
        with self._orders_changed:
            self._orders_changed.wait_for(lambda: self._orders_known != seen, seconds)

    def _admit_in_time(self, candidate: Candidate, admission: Admission, deadline: float) -> Decision:
        """G24: by then the milter has put the mail off by itself, so nothing may be promised any more."""
        while True:
            # Stale: a step of the same enrollment was saved meanwhile; decide again on what is true now.
            with contextlib.suppress(enrollments.StaleVersion):
                return self._admit(candidate, admission, deadline)

    def _admit(self, candidate: Candidate, admission: Admission, deadline: float) -> Decision:
        """G23: one transaction holds the challenge mail, the exact reply, the state and the audit record."""
        disposition = admission.policy.on_success
        with self._database.write() as connection:
            if time.monotonic() > deadline:  # asked here, since other writers may have been waited for
                raise Stopped("G24", Outcome.TRY_LATER, Reason.TOO_SLOW)
            made = promise(
                connection, self._answerer, admission, queue_id=candidate.envelope.queue_id, now=self._clock()
            )
        if not made.later:
            self._reply_is_due(made.entry_id)
        log_event(
            Event.CHALLENGE_ACCEPTED,
            queue_id=candidate.envelope.queue_id,
            rcpt=admission.mailbox,
            authority=made.enrollment.authority,
            order=made.enrollment.id,
            from_=str(admission.mail.sender),
            **_proof(admission),
            reply="in its turn" if made.later else None,
            action=disposition,
        )
        return Decision("discard" if disposition == "discard" else "accept", Reason.ACCEPTED)

    def _stop(self, candidate: Candidate, stopped: Stopped) -> Decision:
        queue_id = candidate.envelope.queue_id
        facts: dict[str, Any] = {
            "rcpt": ",".join(candidate.envelope.recipients),
            "mail_from": candidate.envelope.sender,
            "condition": stopped.condition,
            "reason": stopped.reason,
            "detail": stopped.detail or None,
        }
        facts = {key: value for key, value in facts.items() if value is not None}
        smime = any(_accepts_smime(self._config(), recipient) for recipient in candidate.envelope.recipients)
        if stopped.outcome is Outcome.TRY_LATER and not may_be_put_off(candidate.raw, smime=smime):
            stopped = Stopped(stopped.condition, Outcome.DELIVER_AND_ALERT, stopped.reason, stopped.detail)
        if stopped.outcome is Outcome.TRY_LATER:
            if self._is_patient_with(candidate):
                log_event(Event.CHALLENGE_DOUBT, queue_id=queue_id, **facts, action="tempfail")
                return Decision("tempfail", stopped.reason)
            facts["reason"] = Reason.TOO_LONG_IN_DOUBT
            stopped = Stopped(stopped.condition, Outcome.DELIVER_AND_ALERT, Reason.TOO_LONG_IN_DOUBT)
        if stopped.outcome is Outcome.DUPLICATE:
            swallowed = self._swallows(candidate)
            action = "discard" if swallowed else "deliver"
            log_event(Event.CHALLENGE_DUPLICATE, queue_id=queue_id, **facts, action=action)
            return Decision("discard" if swallowed else "accept", stopped.reason)
        if stopped.outcome is Outcome.DELIVER_AND_ALERT:
            unsolicited = stopped.reason is Reason.UNSOLICITED
            word = Event.CHALLENGE_UNSOLICITED if unsolicited else Event.CHALLENGE_REFUSED
            log_event(word, queue_id=queue_id, level=logging.WARNING, **facts, action="deliver", alert=1)
        else:
            word = Event.CHALLENGE_OBSERVED if stopped.reason is Reason.OBSERVING else Event.CHALLENGE_REFUSED
            log_event(word, queue_id=queue_id, **facts, action="deliver")
        return Decision("accept", stopped.reason)

    def _swallows(self, candidate: Candidate) -> bool:
        """Whether the mailbox's policy keeps challenges out of the inbox; a copy of one is treated like the first."""
        policy = self._config().policy_for(candidate.envelope.recipients[0])
        return policy is not None and policy.mode == "enforce" and policy.on_success == "discard"

    def _is_patient_with(self, candidate: Candidate) -> bool:
        """Rule T's clock, which starts at the first sight of this mail and outlives a restart."""
        now = self._clock()
        digest = hashlib.sha256(_token_or_everything(candidate)).digest()
        try:
            with self._database.write() as connection:
                since = challenge_mails.doubted_since(connection, digest, now)
        except (sa.exc.SQLAlchemyError, sqlite3.Error, OSError):
            # No store, no memory across restarts; the clock in this process still ends the doubt.
            with self._doubts_lock:
                horizon = now - 2 * LONGEST_DOUBT
                self._doubts_without_store = {k: v for k, v in self._doubts_without_store.items() if v > horizon}
                since = self._doubts_without_store.setdefault(digest, now)
        return now - since < LONGEST_DOUBT


def _parse(candidate: Candidate) -> ChallengeMail:
    """G3 to G9, G11 and the form of Reply-To. Whether Auto-Submitted may be missing is the authority's term."""
    if candidate.truncated:
        raise Stopped("G11", Outcome.DELIVER_AND_ALERT, MailFault.TOO_LARGE, "more than 256 kB")
    try:
        return parse_challenge_mail(candidate.raw, require_auto_submitted=False)
    except MailRefused as refused:
        raise stopped_by(refused) from None


def _check_provable(mail: ChallengeMail) -> None:
    """A mail that no signature could ever prove is judged now, and told so, instead of waiting for an order's row."""
    try:
        candidate_signatures(mail.headers, mail.sender.domain)
    except MailRefused as refused:
        raise stopped_by(refused) from None


def _accepts_smime(config: Config, mailbox: str) -> bool:
    """Whether an authority that the mailbox's policy names may prove its mails by S/MIME."""
    policy = config.policy_for(mailbox)
    found = () if policy is None else (config.authorities.get(name) for name in policy.authorities)
    return any(authority is not None and authority.accept_smime_signed for authority in found)


def _proof(admission: Admission) -> dict[str, Any]:
    """What the log says of how a mail was proven."""
    if admission.smime is not None:
        return {"smime": "pass", "signer": admission.smime.signer, "headers": admission.smime.protection}
    signature = admission.verdict.signature
    return {
        "dkim": "pass",
        "d": signature.domain if signature else None,
        "s": signature.selector if signature else None,
    }


def _token_or_everything(candidate: Candidate) -> bytes:
    """What rule T remembers a mail by: its token, or the whole mail while none can be read."""
    try:
        return parse_challenge_mail(candidate.raw, require_auto_submitted=False).token_part1.decoded
    except MailRefused:
        return candidate.raw
