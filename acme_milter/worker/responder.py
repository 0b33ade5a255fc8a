# SPDX-License-Identifier: GPL-3.0-or-later
"""The responder: takes one reply out of the outbox and hands it to Postfix, once, whatever breaks in between."""

import contextlib
import re
import smtplib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from acme_milter.acme.authorization import AuthorizationStatus, ChallengeStatus
from acme_milter.acme.problem import AcmeError, ServerRefused
from acme_milter.config.schema import Config, ReplyPolicy
from acme_milter.enrollment.model import CHALLENGED_STATES, Enrollment
from acme_milter.enrollment.state_machine import ReplyHandedOver, advance
from acme_milter.eventlog import Event, log_event
from acme_milter.keys.client import KeydUnavailable
from acme_milter.keys.refusal import KeydRefused
from acme_milter.store import audit, enrollments, outbox
from acme_milter.store.database import Database
from acme_milter.store.outbox import OutboxEntry
from acme_milter.worker.authorities import Authorities, AuthorityUnusable
from acme_milter.worker.identifiers import has_changed_hands
from acme_milter.worker.reply_fate import NOBODY_LOOKS, is_at_hand
from acme_milter.worker.vault import Vault

LEASE = timedelta(minutes=5)
SMTP_TIMEOUT = 30.0
"""Seconds for one SMTP command; Postfix on the same host answers in milliseconds. A dialogue has seven of them at most,
so that it ends before the lease does."""

PATIENCE = timedelta(hours=6)
"""F-26: how long a reply is offered to a Postfix that does not take it; then its order is given up for another one."""

AMBIGUOUS_PAUSE = timedelta(seconds=60)
"""F-25: how long an interrupted handover rests before the same bytes go out once more."""

MOST_HANDOVERS = 2
"""N2: the same reply is never handed over more often than this."""

_QUEUED_AS = re.compile(rb"queued as ([0-9A-Za-z]+)")


class NotTaken(Exception):
    """Postfix did not take the reply. ``certain`` is False when the connection broke where it might have."""

    def __init__(self, text: str, *, certain: bool, permanent: bool = False) -> None:
        super().__init__(text)
        self.certain = certain
        self.permanent = permanent


@dataclass(frozen=True, slots=True, kw_only=True)
class Responder:
    """Works off outbox entries; any number of threads, and any number of processes, may do so at once."""

    owner: str
    config: Callable[[], Config]
    database: Database
    vault: Vault
    authorities: Authorities
    clock: Callable[[], datetime]

    def work_off(self, entry_id: str) -> None:
        """Claim the entry, hand it over, record the outcome. Returns silently when another one holds it."""
        now = self.clock()
        with self.database.write() as connection:
            entry = outbox.claim(connection, entry_id, owner=self.owner, now=now, until=now + LEASE)
            enrollment = None if entry is None else enrollments.get(connection, entry.enrollment_id)
        if entry is None or enrollment is None:
            return
        if enrollment.state not in CHALLENGED_STATES:
            self._give_up(entry, f"the order is over ({enrollment.state})")
        elif not is_at_hand(enrollment, entry):
            self._give_up(entry, f"the authority is convinced of {entry.envelope_sender} already")
        elif has_changed_hands(self.config(), enrollment, enrollment.at_hand):
            self._give_up(entry, f"{enrollment.at_hand} is not an address of {enrollment.address} any more")
        elif enrollment.authority not in self.config().authorities:
            self._give_up(entry, f"authority {enrollment.authority} is not configured any more")
        elif now - entry.created_at > PATIENCE:
            self._give_up(entry, entry.last_error or "nothing came of it in time")
        elif entry.handover_began_at is None or self._may_repeat(entry, entry.handover_began_at, enrollment):
            self._hand_over(entry, enrollment.at_hand)

    def _may_repeat(self, entry: OutboxEntry, began_at: datetime, enrollment: Enrollment) -> bool:
        """F-25: the process died, or the line broke, while Postfix may have taken the reply.

        RFC 8823 §3 step 6 forbids a second answer; an SMTP retransmission of the same message is the least evil
        (RFC 1047), and only after the authority was asked whether it has the first one.
        """
        rested_at = began_at + AMBIGUOUS_PAUSE
        if entry.handovers < MOST_HANDOVERS and self.clock() < rested_at:
            self._defer(entry, rested_at, "it is unknown whether Postfix has the reply", certain=False)
            return False
        try:
            sent = entry.handovers >= MOST_HANDOVERS or self._authority_has_it(enrollment)
        except (AcmeError, AuthorityUnusable, KeydUnavailable, KeydRefused) as error:
            asks_at = self.clock() + AMBIGUOUS_PAUSE
            self._defer(entry, asks_at, f"whether the authority has the reply is unknown: {error}", certain=False)
            return False
        if sent:
            self._record_sent(entry, queue_id=None)
        return not sent

    def _authority_has_it(self, enrollment: Enrollment) -> bool:
        """Raises AcmeError, AuthorityUnusable and keys errors when that cannot be found out now."""
        if enrollment.authorization_url is None:
            return False
        try:
            found = self.authorities.client_of(enrollment).fetch_authorization(enrollment.authorization_url)
        except ServerRefused as refused:
            if refused.temporary:
                raise
            return False  # it has forgotten the authorization
        if found.status is not AuthorizationStatus.PENDING or found.challenge is None:
            return found.status is not AuthorizationStatus.PENDING
        # Until we POST to the challenge, only the reply itself can set it going.
        trigger = self.config().authorities[enrollment.authority].challenge_trigger
        unasked = trigger == "reply-first" and enrollment.challenge_posted_at is None
        return found.challenge.status is ChallengeStatus.VALID or (
            found.challenge.status is ChallengeStatus.PROCESSING and unasked
        )

    def _hand_over(self, entry: OutboxEntry, address: str) -> None:
        policy = self.config().policy_for(address)
        if policy is None:
            self._give_up(entry, "the mailbox is not managed any more")
            return
        raw = self.vault.unseal_reply(entry.id, entry.sealed_reply)
        with self.database.write() as connection:
            begun = outbox.begin_handover(connection, entry.id, owner=self.owner, at=self.clock(), most=MOST_HANDOVERS)
        if not begun:
            return
        try:
            queue_id = submit(raw, entry.envelope_sender, entry.envelope_recipient, policy.reply)
        except NotTaken as refused:
            pause = min(timedelta(seconds=5) * 2 ** min(entry.attempts, 6), timedelta(minutes=5))
            event = Event.REPLY_REFUSED if refused.permanent else Event.REPLY_DEFERRED
            log_event(event, rcpt=address, order=entry.enrollment_id, to=entry.envelope_recipient, error=str(refused))
            self._defer(entry, self.clock() + pause, str(refused), certain=refused.certain)
        else:
            via = f"{policy.reply.host}:{policy.reply.port}"
            log_event(Event.REPLY_QUEUED, rcpt=address, order=entry.enrollment_id, reply_qid=queue_id, via=via)
            followed = queue_id is not None and policy.reply.follow != "none"
            self._record_sent(entry, queue_id=queue_id, followed=followed)

    def _record_sent(self, entry: OutboxEntry, *, queue_id: str | None, followed: bool = False) -> None:
        while True:
            with contextlib.suppress(enrollments.StaleVersion), self.database.write() as connection:
                now = self.clock()
                if not outbox.mark_sent(
                    connection, entry.id, owner=self.owner, at=now, queue_id=queue_id, followed=followed
                ):
                    return
                enrollment = enrollments.get(connection, entry.enrollment_id)
                moves = enrollment is not None and is_at_hand(enrollment, entry)
                if enrollment is not None and moves and enrollment.state in CHALLENGED_STATES:
                    authority = self.config().authorities[enrollment.authority]
                    # The reply needs time to reach the authority: some read their mailbox only once, at the POST.
                    pause = max(authority.post_delay, NOBODY_LOOKS) if followed else authority.post_delay
                    event = ReplyHandedOver(next_attempt_at=now + pause)
                    enrollments.save(connection, advance(enrollment, event, now), release=False)
                audit.record(
                    connection,
                    Event.REPLY_QUEUED,
                    at=now,
                    enrollment_id=entry.enrollment_id,
                    details={"queue_id": queue_id, "message_id": entry.message_id},
                )
                return

    def _defer(self, entry: OutboxEntry, until: datetime, error: str, *, certain: bool) -> None:
        with self.database.write() as connection:
            outbox.mark_deferred(connection, entry.id, owner=self.owner, until=until, error=error, certain=certain)

    def _give_up(self, entry: OutboxEntry, error: str) -> None:
        with self.database.write() as connection:
            outbox.mark_given_up(connection, entry.id, owner=self.owner, error=error)


def submit(raw: bytes, sender: str, recipient: str, settings: ReplyPolicy) -> str | None:
    """Hand one message to Postfix by SMTP; return the queue id it named. Raises NotTaken.

    SMTP rather than sendmail(1), since its answer names the queue id.
    """
    certain = True
    try:
        smtp = smtplib.SMTP(settings.host, settings.port, local_hostname="localhost", timeout=SMTP_TIMEOUT)
        try:
            smtp.ehlo()
            _expect(smtp.mail(sender, _mail_options(smtp, sender + recipient)), 250)
            _expect(smtp.rcpt(recipient), 250)
            certain = False
            answer = smtp.data(raw)
            certain = True
            _expect(answer, 250)
            found = _QUEUED_AS.search(answer[1])
            return found[1].decode("ascii") if found else None
        finally:
            # Whatever QUIT brings, the fate of the message is known by now.
            with contextlib.suppress(smtplib.SMTPException, OSError):
                smtp.quit()
            smtp.close()
    except smtplib.SMTPServerDisconnected:
        raise NotTaken("Postfix closed the connection", certain=certain) from None
    except smtplib.SMTPDataError as error:  # the DATA command was refused, so not an octet of the message went out
        raise NotTaken(
            f"{error.smtp_code} {_shown(error.smtp_error)}", certain=True, permanent=error.smtp_code >= 500
        ) from None
    except smtplib.SMTPResponseException as error:
        raise NotTaken(f"{error.smtp_code} {_shown(error.smtp_error)}", certain=certain) from None
    except OSError as error:
        raise NotTaken(f"{settings.host}:{settings.port}: {error.strerror or 'time-out'}", certain=certain) from None


def _mail_options(smtp: smtplib.SMTP, addresses: str) -> list[str]:
    if addresses.isascii():
        return []
    if not smtp.has_extn("smtputf8"):  # RFC 6531: a mangled From would be worse than no reply
        raise NotTaken("Postfix does not offer SMTPUTF8", certain=True)
    return ["SMTPUTF8", "BODY=8BITMIME"]


def _expect(answer: tuple[int, bytes], wanted: int) -> None:
    code, text = answer
    if code != wanted:
        raise NotTaken(f"{code} {_shown(text)}", certain=True, permanent=code >= 500)


def _shown(text: bytes | str) -> str:
    return (text.decode("ascii", "replace") if isinstance(text, bytes) else text)[:200]
