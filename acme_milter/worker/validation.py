# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps from a plan to a validated challenge: key, order, authorization, mail, reply, POST."""

import random
import uuid
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa

from acme_milter.acme.authorization import ChallengeStatus
from acme_milter.acme.order import Order
from acme_milter.acme.problem import ServerRefused
from acme_milter.config.policy import Policy
from acme_milter.config.sources import LIST
from acme_milter.enrollment.backoff import LOOK_AT_OUTBOX, step_delay
from acme_milter.enrollment.model import Enrollment
from acme_milter.enrollment.state_machine import (
    ChallengeMailAccepted,
    ChallengePosted,
    Deferred,
    OrderingBegan,
    OrderPlaced,
)
from acme_milter.eventlog import Event, log_event
from acme_milter.mailboxes.verification import Deliverability
from acme_milter.store import mailbox_keys, outbox
from acme_milter.store.mailbox_keys import StoredMailboxKey
from acme_milter.store.outbox import OutboxEntry
from acme_milter.worker.authorities import AuthorityUnusable
from acme_milter.worker.caa import Permission
from acme_milter.worker.clock_watch import WRONG
from acme_milter.worker.custody import wanted_request
from acme_milter.worker.identifiers import Identifiers, proofs_of, proven
from acme_milter.worker.order_desk import OrderDesk
from acme_milter.worker.replacement import key_to_reuse, refuses_replacement, replaced_id
from acme_milter.worker.reply_fate import Bounced, fate_of, is_at_hand
from acme_milter.worker.step import OrderDied, Step, check_alive

POSTFIX_ANSWERS = timedelta(seconds=2)
DNS_ANSWERS = timedelta(seconds=2)
LOOK_AT_CAA = timedelta(hours=1)
LOOK_AT_REPLY = timedelta(minutes=15)
"""Whoever follows it calls at once; this is how often the log says that it still waits, and the authority is asked."""

LOOK_AT_POSTFIX = timedelta(minutes=1)
LOOK_FOR_REQUEST = timedelta(days=1)
"""Whoever brings one has it begin at once; this is how often the log says that nobody has."""


@dataclass(frozen=True, slots=True)
class Validation:
    """Each method is one step, and at most one ACME request that changes something."""

    desk: OrderDesk

    @property
    def identifiers(self) -> Identifiers:
        return Identifiers(self.desk)

    def begin(self, enrollment: Enrollment) -> Step:
        """K1 to K4: the mailbox key is stored, sealed, before anything is ordered."""
        policy = self.desk.config().policy_for(enrollment.address)
        if policy is None:
            raise OrderDied("the mailbox is not managed any more", again=False)
        brought = policy.custody == "csr" and enrollment.key_id is not None
        not_yet = self._wait_for_request(enrollment, policy) or self._wait_for_postfix(enrollment)
        if not_yet is not None:
            return not_yet
        self.desk.authority(enrollment)
        account = self.desk.authorities.account(enrollment.authority, enrollment.address)
        # An authority that cannot be reached costs no key; one that can has said what time it is (F-12).
        self.desk.authorities.network(enrollment.authority).directory()
        self._check_clock(enrollment)
        not_yet = self._wait_for_caa(enrollment)
        if not_yet is not None:
            return not_yet
        aliases = self.identifiers.choose(enrollment, policy)
        if isinstance(aliases, Step):
            return aliases
        now = self.desk.clock()
        kept = enrollment.key_id if brought else key_to_reuse(self.desk.database, enrollment, policy, aliases)
        if kept is not None:
            return Step(
                OrderingBegan(key_id=kept, began_ordering_at=now, account_id=account.id, aliases=aliases),
                also=lambda connection: self.identifiers.reserve(connection, enrollment, aliases),
            )
        key_id = uuid.uuid4().hex
        made = self.desk.keyd.new_mailbox_key(
            key_id, enrollment.principal, policy.certificate.key, [enrollment.address, *aliases], enrollment.usage
        )
        key = StoredMailboxKey(
            id=key_id,
            principal=enrollment.principal,
            algorithm=policy.certificate.key,
            sealed_key=made.sealed,
            spki=made.spki,
            csr=made.csr,
            created_at=now,
        )

        def keep(connection: sa.Connection) -> None:
            self.identifiers.reserve(connection, enrollment, aliases)
            mailbox_keys.insert(connection, key)

        began = OrderingBegan(key_id=key_id, began_ordering_at=now, account_id=account.id, aliases=aliases)
        return Step(began, also=keep)

    def _wait_for_request(self, enrollment: Enrollment, policy: Policy) -> Step | None:
        """custody: csr: the key is the mailbox's own business. A request that it has brought before may serve again."""
        if policy.custody != "csr" or enrollment.key_id is not None:
            return None
        if key_to_reuse(self.desk.database, enrollment, policy) is not None:
            return None
        why = wanted_request(enrollment.address, policy, enrollment.usage)
        return Step(Deferred(next_attempt_at=self.desk.clock() + LOOK_FOR_REQUEST, last_error=why))

    def _check_clock(self, enrollment: Enrollment) -> None:
        skew = self.desk.authorities.clock_skew(enrollment.authority)
        if skew is not None and abs(skew) > WRONG:
            raise AuthorityUnusable(
                f"this machine's clock and that of authorities.{enrollment.authority} are"
                f" {abs(skew).total_seconds():.0f} seconds apart, and nothing new is begun with a wrong clock: set it"
            )

    def _wait_for_caa(self, enrollment: Enrollment) -> Step | None:
        """RFC 9495: no order that the authority would have to refuse: it would cost limits and bring nothing."""
        authority = self.desk.authority(enrollment)
        if authority.caa == "ignore":
            return None
        known_as = self.desk.authorities.network(enrollment.authority).directory().meta.caa_identities
        domain = enrollment.address.rpartition("@")[2]
        answer = self.desk.may_issue(enrollment.authority, authority.caa_domains or known_as, domain)
        now = self.desk.clock()
        match answer.permission:
            case Permission.PENDING:
                return Step(Deferred(next_attempt_at=now + DNS_ANSWERS))
            case Permission.UNCLEAR:
                pause = step_delay(enrollment.attempts + 1, random.random())  # noqa: S311 spreads load, hides nothing
                return Step(Deferred(next_attempt_at=now + pause, last_error=answer.text))
            case Permission.REFUSED:
                return Step(Deferred(next_attempt_at=now + LOOK_AT_CAA, last_error=answer.text))
            case Permission.GIVEN:
                return None

    def _wait_for_postfix(self, enrollment: Enrollment) -> Step | None:
        """A mailbox that a source listed must be one to Postfix too: to any other the challenge mail never comes.

        Raises OrderDied when Postfix does not know it; a step to save when it cannot be asked just now.
        """
        member = self.desk.config().member(enrollment.address)
        if member is None or member.source == LIST:
            return None
        verdict = self.desk.mail_arrives(member.address)
        now = self.desk.clock()
        if verdict is None:
            return Step(Deferred(next_attempt_at=now + POSTFIX_ANSWERS))
        match verdict.deliverability:
            case Deliverability.UNKNOWN:
                raise OrderDied(verdict.why, again=False)
            case Deliverability.UNDECIDED:
                why = f"whether Postfix knows the mailbox could not be found out: {verdict.why}"
                return Step(Deferred(next_attempt_at=now + LOOK_AT_POSTFIX, last_error=why))
            case _:
                return None

    def place_order(self, enrollment: Enrollment) -> Step:
        """RFC 8555 §7.4. A lost answer leads to a second newOrder; authorities may hand the same order back."""
        order = self._new_order(enrollment)
        check_alive(order)
        proofs = proofs_of(enrollment, order)
        assert order.finalize is not None  # an order that is not invalid has it
        return Step(
            OrderPlaced(
                order_url=order.url,
                order_expires_at=order.expires,
                authorization_url=order.authorizations[0],
                finalize_url=order.finalize,
                proofs=proofs,
            )
        )

    def _new_order(self, enrollment: Enrollment) -> Order:
        """RFC 9773 §5: say what is replaced; where the authority does not want to hear it, order without."""
        client, authority = self.desk.client(enrollment), self.desk.authority(enrollment)
        profile = self.desk.profile(enrollment)
        replaces = replaced_id(self.desk.database, enrollment) if authority.use_ari else None
        if replaces is None or client.network.directory().renewal_info is None:
            return client.new_order(enrollment.address, profile=profile, aliases=enrollment.aliases)
        try:
            return client.new_order(enrollment.address, profile=profile, replaces=replaces, aliases=enrollment.aliases)
        except ServerRefused as refused:
            if not refuses_replacement(refused):
                raise
        return client.new_order(enrollment.address, profile=profile, aliases=enrollment.aliases)

    def wait_for_mail(self, enrollment: Enrollment) -> Step:
        """F-20, F-24: no mail yet. Ask the authority; POST where it mails only then; else give the order up."""
        kept = [entry.id for entry in self._replies(enrollment) if entry.is_kept] if enrollment.aliases else []
        if kept:  # it came before its address's turn
            return self._use_kept(kept)
        authority = self.desk.authority(enrollment)
        found = self.desk.authorization(enrollment)
        if found.status == "valid":
            return proven(enrollment)
        error = self.desk.clock_error(enrollment)
        now = self.desk.clock() - error
        if authority.challenge_trigger != "reply-first" and enrollment.challenge_posted_at is None:
            self._respond(enrollment)
            posted = self.desk.clock()
            if authority.challenge_trigger == "auto":
                log_event(Event.POSTED_WITHOUT_MAIL, rcpt=enrollment.address, order=enrollment.id)
            return Step(ChallengePosted(challenge_posted_at=posted, next_attempt_at=posted + authority.challenge_wait))
        waits_since = enrollment.challenge_posted_at or enrollment.state_since
        if now < waits_since + authority.challenge_wait:
            return Step(Deferred(next_attempt_at=waits_since + authority.challenge_wait + error))
        raise OrderDied(f"no challenge mail from {enrollment.challenge_sender} arrived in time", again=True)

    def _use_kept(self, replies: list[str]) -> Step:
        now = self.desk.clock()
        return Step(
            ChallengeMailAccepted(next_attempt_at=now + LOOK_AT_OUTBOX),
            also=lambda connection: outbox.let_go(connection, replies, now),
        )

    def wait_for_outbox(self, enrollment: Enrollment) -> Step:
        """The responder does the work; what keeps it from it is shown here, and ends here when it gave up."""
        entries = self._replies(enrollment)
        errors = [entry.last_error for entry in entries if entry.last_error is not None]
        if all(entry.next_attempt_at is None for entry in entries):
            raise OrderDied(f"the reply could not be handed to Postfix: {errors[-1] if errors else 'none'}", again=True)
        deadline = self.desk.deadline(enrollment) + self.desk.clock_error(enrollment)
        look_again = min(self.desk.clock() + LOOK_AT_OUTBOX, deadline)
        return Step(Deferred(next_attempt_at=look_again, last_error=errors[-1] if errors else None))

    def post_challenge(self, enrollment: Enrollment) -> Step:
        """RFC 8823 §3 step 7, RFC 8555 §7.5.1, once the reply has left, as far as that can be known.

        A challenge that was posted to get the mail is posted again only where the authority has made nothing of that.
        """
        not_yet = self._wait_for_departure(enrollment)
        if not_yet is not None:
            return not_yet
        now = self.desk.clock()
        found = self.desk.authorization(enrollment)
        if found.status == "valid":
            return proven(enrollment)
        untouched = found.challenge is not None and found.challenge.status is ChallengeStatus.PENDING
        if enrollment.challenge_posted_at is not None and not untouched:
            return Step(ChallengePosted(challenge_posted_at=enrollment.challenge_posted_at))
        self._respond(enrollment)
        return Step(ChallengePosted(challenge_posted_at=now))

    def _wait_for_departure(self, enrollment: Enrollment) -> Step | None:
        """Whoever follows the reply calls for this step at once; what is in the reply's way is shown meanwhile."""
        entries = self._replies(enrollment)
        now = self.desk.clock()
        try:
            wait = fate_of(entries, now)
        except Bounced as bounced:
            raise OrderDied(f"the reply bounced: {bounced}", again=True) from None
        if wait is None:
            return None
        if wait.why is not None and self.desk.authorization(enrollment).status == "valid":
            return proven(enrollment)  # the reply was there all the same, or a person has seen to it
        deadline = self.desk.deadline(enrollment) + self.desk.clock_error(enrollment)
        return Step(Deferred(next_attempt_at=min(wait.until or now + LOOK_AT_REPLY, deadline), last_error=wait.why))

    def poll_authorization(self, enrollment: Enrollment) -> Step:
        """RFC 8823 §3 step 8."""
        found = self.desk.authorization(enrollment)
        if found.status == "valid":
            return proven(enrollment)
        return self.desk.look_again(enrollment, found.retry_after)

    def _replies(self, enrollment: Enrollment) -> list[OutboxEntry]:
        """Those of the address at hand."""
        with self.desk.database.read() as connection:
            return [entry for entry in outbox.of_enrollment(connection, enrollment.id) if is_at_hand(enrollment, entry)]

    def _respond(self, enrollment: Enrollment) -> None:
        assert enrollment.challenge_url is not None
        self.desk.client(enrollment).respond(enrollment.challenge_url)
