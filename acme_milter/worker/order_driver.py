# SPDX-License-Identifier: GPL-3.0-or-later
"""The order driver: for an enrollment in a given state, the one step that is due. Saving it is the scheduler's."""

import contextlib
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.acme.authorization import Authorization
from acme_milter.acme.client import AcmeClient
from acme_milter.acme.order import Order
from acme_milter.acme.problem import AcmeError, BadAnswer, ErrorType, Problem, ServerRefused
from acme_milter.certificate.issued import IssuedCertificate, check_issued
from acme_milter.certificate.refusal import CertificateRefused
from acme_milter.config.schema import Authority, Config
from acme_milter.enrollment.backoff import LOOK_AT_OUTBOX, poll_delay, reorder_delay
from acme_milter.enrollment.gate import CHALLENGE_LIFETIME
from acme_milter.enrollment.model import Enrollment, State
from acme_milter.enrollment.state_machine import (
    Activated,
    AuthorizationValid,
    CertificateIssued,
    CertificateReady,
    ChallengeKnown,
    ChallengePosted,
    Deferred,
    Event,
    Failed,
    FinalizeSent,
    OrderingBegan,
    OrderPlaced,
    Superseded,
    advance,
)
from acme_milter.eventlog import Event as LogEvent
from acme_milter.eventlog import log_event
from acme_milter.keys.client import KeydClient, KeydUnavailable
from acme_milter.keys.refusal import KeydRefused
from acme_milter.protocol.mailbox import InvalidMailbox, Mailbox
from acme_milter.store import audit, certificates, enrollments, mailbox_keys, outbox
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database
from acme_milter.store.mailbox_keys import StoredMailboxKey
from acme_milter.worker.authorities import Authorities, AuthorityUnusable
from acme_milter.worker.vault import Vault

CLEANUP_ATTEMPTS = 3
FETCH_ATTEMPTS = 8
"""About four minutes in which a proxy may stop answering for the authority; then what comes is taken for its word."""


def _nothing(_connection: sa.Connection) -> None:
    pass


def _rest() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Step:
    """What a step came to: the event to advance by, and rows that belong into the same transaction."""

    event: Event
    also: Callable[[sa.Connection], None] = _nothing
    afterwards: Callable[[], None] = _rest
    """Called once all of that is committed; must not raise."""


class OrderDied(Exception):
    """The order cannot lead to a certificate any more. ``again``: another one, later, might."""

    def __init__(self, text: str, *, again: bool) -> None:
        super().__init__(text)
        self.again = again


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderDriver:
    """Takes steps; holds no state of its own, so any number of threads may share it."""

    config: Callable[[], Config]
    database: Database
    vault: Vault
    keyd: KeydClient
    authorities: Authorities
    clock: Callable[[], datetime]

    def take_step(self, enrollment: Enrollment) -> Step:
        """Do what is due for the enrollment: at most one ACME step.

        Raises AcmeError or a keys error that ``temporary`` tells apart, and lets everything else through as a fault
        of ours. An order that died is not an exception to the caller: it comes back as ``Failed``.
        """
        try:
            self._check_deadline(enrollment)
            match enrollment.state:
                case State.PLANNED:
                    return self._begin(enrollment)
                case State.ORDERING if enrollment.order_url is None:
                    return self._place_order(enrollment)
                case State.ORDERING:
                    return self._read_authorization(enrollment)
                case State.AWAITING_MAIL:
                    return self._wait_for_mail(enrollment)
                case State.REPLIED:
                    return self._post_challenge(enrollment)
                case State.VALIDATING:
                    return self._poll_authorization(enrollment)
                case State.FINALIZING if enrollment.certificate_url is None:
                    return self._finalize(enrollment)
                case State.FINALIZING:
                    return self._fetch_certificate(enrollment)
                case State.ISSUED:
                    return self._clean_up(enrollment)
                case State.REPLYING:
                    return self._wait_for_outbox(enrollment)
                case _:  # nothing is due in a state that is not open
                    return Step(Deferred(next_attempt_at=self.clock() + LOOK_AT_OUTBOX))
        except OrderDied as died:
            return self._fail(enrollment, str(died), again=died.again)
        except ServerRefused as refused:
            if refused.temporary:
                raise
            return self._fail(enrollment, str(refused), again=not (refused.problem and refused.problem.needs_operator))

    def _begin(self, enrollment: Enrollment) -> Step:
        """K1 to K4: the mailbox key is stored, sealed, before anything is ordered."""
        policy = self.config().policy_for(enrollment.address)
        if policy is None:
            raise OrderDied("the mailbox is not managed any more", again=False)
        self._authority(enrollment)
        self.authorities.client(enrollment.authority)  # an authority that cannot be reached costs no key
        now = self.clock()
        key_id = uuid.uuid4().hex
        made = self.keyd.new_mailbox_key(key_id, enrollment.address, policy.certificate.key, [enrollment.address])
        key = StoredMailboxKey(
            id=key_id,
            principal=enrollment.address,
            algorithm=policy.certificate.key,
            sealed_key=made.sealed,
            spki=made.spki,
            csr=made.csr,
            created_at=now,
        )
        return Step(
            OrderingBegan(key_id=key_id, began_ordering_at=now),
            also=lambda connection: mailbox_keys.insert(connection, key),
        )

    def _place_order(self, enrollment: Enrollment) -> Step:
        """RFC 8555 §7.4. A lost answer leads to a second newOrder; authorities may hand the same order back."""
        order = self._client(enrollment).new_order(enrollment.address, profile=self._authority(enrollment).profile)
        _check_alive(order)
        if len(order.authorizations) != 1:
            raise OrderDied(f"the order has {len(order.authorizations)} authorizations instead of one", again=False)
        assert order.finalize is not None  # an order that is not invalid has it
        return Step(
            OrderPlaced(
                order_url=order.url,
                order_expires_at=order.expires,
                authorization_url=order.authorizations[0],
                finalize_url=order.finalize,
            )
        )

    def _read_authorization(self, enrollment: Enrollment) -> Step:
        """RFC 8823 §3 step 3: learn token-part2 and the sender of the challenge mail to come."""
        found = self._authorization(enrollment)
        if found.status == "valid":  # RFC 8555 §7.4: nothing to prove, so no mail will come
            return Step(AuthorizationValid())
        challenge = found.challenge
        if challenge is None:
            raise OrderDied("the authority offers no email-reply-00 challenge for this address", again=False)
        try:
            sender = Mailbox.parse(challenge.sender, allow_utf8=True)
        except InvalidMailbox as flaw:  # no mail's From could ever equal it (RFC 8823 §3.1 item 2)
            raise OrderDied(f"the challenge's from is no mail address: {flaw}", again=False) from None
        authority = self._authority(enrollment)
        now = self.clock()
        look_again = {
            "reply-first": authority.challenge_wait,
            "post-first": timedelta(0),
            "auto": authority.auto_post_after,
        }[authority.challenge_trigger]
        return Step(
            ChallengeKnown(
                challenge_url=challenge.url,
                challenge_sender=str(sender),
                token_part2=self.vault.seal_token(enrollment.id, challenge.token_part2),
                next_attempt_at=now + look_again,
            )
        )

    def _wait_for_mail(self, enrollment: Enrollment) -> Step:
        """F-20, F-24: no mail yet. Ask the authority; POST where it mails only then; else give the order up."""
        authority = self._authority(enrollment)
        found = self._authorization(enrollment)
        if found.status == "valid":
            return Step(AuthorizationValid())
        now = self.clock()
        if authority.challenge_trigger != "reply-first" and enrollment.challenge_posted_at is None:
            self._respond(enrollment)
            return Step(ChallengePosted(challenge_posted_at=now, next_attempt_at=now + authority.challenge_wait))
        waits_since = enrollment.challenge_posted_at or enrollment.state_since
        if now < waits_since + authority.challenge_wait:
            return Step(Deferred(next_attempt_at=waits_since + authority.challenge_wait))
        raise OrderDied(f"no challenge mail from {enrollment.challenge_sender} arrived in time", again=True)

    def _wait_for_outbox(self, enrollment: Enrollment) -> Step:
        """The responder does the work; what keeps it from it is shown here, and ends here when it gave up."""
        with self.database.read() as connection:
            entries = outbox.of_enrollment(connection, enrollment.id)
        errors = [entry.last_error for entry in entries if entry.last_error is not None]
        if all(entry.next_attempt_at is None for entry in entries):
            raise OrderDied(f"the reply could not be handed to Postfix: {errors[-1] if errors else 'none'}", again=True)
        look_again = min(self.clock() + LOOK_AT_OUTBOX, self._deadline(enrollment))
        return Step(Deferred(next_attempt_at=look_again, last_error=errors[-1] if errors else None))

    def _post_challenge(self, enrollment: Enrollment) -> Step:
        """RFC 8823 §3 step 7, RFC 8555 §7.5.1; a challenge that was posted to get the mail is not posted again."""
        now = self.clock()
        if enrollment.challenge_posted_at is not None:
            return Step(ChallengePosted(challenge_posted_at=enrollment.challenge_posted_at))
        if self._authorization(enrollment).status == "valid":
            return Step(AuthorizationValid())
        self._respond(enrollment)
        return Step(ChallengePosted(challenge_posted_at=now))

    def _poll_authorization(self, enrollment: Enrollment) -> Step:
        """RFC 8823 §3 step 8."""
        found = self._authorization(enrollment)
        if found.status == "valid":
            return Step(AuthorizationValid())
        return self._look_again(enrollment, found.retry_after)

    def _finalize(self, enrollment: Enrollment) -> Step:
        """RFC 8555 §7.4: read the order first, since an earlier CSR may have arrived though its answer did not."""
        client = self._client(enrollment)
        assert enrollment.order_url is not None
        order = client.fetch_order(enrollment.order_url)
        _check_alive(order)
        if order.status == "ready":
            assert enrollment.key_id is not None
            with self.database.read() as connection:
                key = mailbox_keys.get(connection, enrollment.key_id)
            order = client.finalize(order, key.csr)
            _check_alive(order)
            if order.certificate is None:
                now = self.clock()
                pause = order.retry_after or poll_delay(timedelta(0))
                return Step(FinalizeSent(finalize_sent_at=now, next_attempt_at=now + pause))
        if order.status == "valid" and order.certificate is not None:
            return Step(CertificateReady(certificate_url=order.certificate))
        return self._look_again(enrollment, order.retry_after)

    def _fetch_certificate(self, enrollment: Enrollment) -> Step:
        """RFC 8555 §7.4.2 and every check on what came; nothing unchecked is ever stored as active."""
        assert enrollment.certificate_url is not None
        assert enrollment.key_id is not None
        with self.database.read() as connection:
            key = mailbox_keys.get(connection, enrollment.key_id)
        try:
            chain_pem = self._client(enrollment).download(enrollment.certificate_url)
        except BadAnswer as nonsense:
            if enrollment.attempts < FETCH_ATTEMPTS:
                raise
            raise OrderDied(f"the certificate is not what was ordered: {nonsense}", again=False) from None
        try:
            issued = check_issued(
                chain_pem,
                address=enrollment.address,
                public_key_spki=key.spki,
                now=self.clock(),
                trust_roots=self._trust_roots(enrollment),
            )
        except CertificateRefused as refused:
            self._keep_refused(enrollment, chain_pem, refused)
            raise OrderDied(f"the certificate is not what was ordered: {refused}", again=False) from None
        stored = _stored(enrollment, issued, key.id, self.clock())
        return Step(
            CertificateIssued(certificate_id=stored.id),
            also=lambda connection: certificates.insert(connection, stored),
        )

    def _keep_refused(self, enrollment: Enrollment, chain_pem: bytes, refused: CertificateRefused) -> None:
        """F-32: it is not used, but not thrown away either: somebody will have to talk to the authority about it."""
        log_event(
            LogEvent.CERTIFICATE_REFUSED, level=logging.ERROR, rcpt=enrollment.address, order=enrollment.id,
            reason=refused.reason,
        )  # fmt: skip
        with self.database.write() as connection:
            audit.record(
                connection,
                LogEvent.CERTIFICATE_REFUSED,
                at=self.clock(),
                enrollment_id=enrollment.id,
                address=enrollment.address,
                details={"reason": refused.reason, "chain": chain_pem.decode("ascii", "replace")},
            )

    def _clean_up(self, enrollment: Enrollment) -> Step:
        """T26: a valid authorization left lying about would let a thief of the account key order without a mail."""
        try:
            if enrollment.authorization_url is not None:
                self._client(enrollment).deactivate_authorization(enrollment.authorization_url)
        except AcmeError as error:
            if error.temporary and enrollment.attempts < CLEANUP_ATTEMPTS:
                raise
        now = self.clock()

        def supersede(connection: sa.Connection) -> None:
            for other in enrollments.of_mailbox(connection, enrollment.address):
                if (
                    other.state is State.ACTIVE
                    and other.authority == enrollment.authority
                    and other.id != enrollment.id
                ):
                    enrollments.save(connection, advance(other, Superseded(), now))

        return Step(Activated(), also=supersede)

    def _check_deadline(self, enrollment: Enrollment) -> None:
        """S/MIME BR 3.2.2.4 and RFC 8555 §7.1.3: neither the challenge nor the order lives for ever."""
        if enrollment.state in {State.PLANNED, State.FINALIZING, State.ISSUED}:
            return
        if self.clock() > self._deadline(enrollment):
            raise OrderDied(f"the order ran out of time while {enrollment.state}", again=True)

    def _deadline(self, enrollment: Enrollment) -> datetime:
        assert enrollment.began_ordering_at is not None
        deadline = enrollment.began_ordering_at + min(CHALLENGE_LIFETIME, self._authority(enrollment).order_lifetime)
        if enrollment.order_expires_at is not None:
            deadline = min(deadline, enrollment.order_expires_at)
        return deadline

    def _fail(self, enrollment: Enrollment, error: str, *, again: bool) -> Step:
        """End the enrollment; open its successor where that can help.

        The authorization is given back only when that is committed: a challenge mail that comes in between must not
        be answered for an authorization which we have just ended.
        """

        def give_back() -> None:
            # Otherwise the authority could hand the dead authorization back with the next order (F-20).
            with contextlib.suppress(AcmeError, KeydUnavailable, KeydRefused, AuthorityUnusable):
                if enrollment.authorization_url is not None:
                    self._client(enrollment).deactivate_authorization(enrollment.authorization_url)

        if not again:
            return Step(Failed(last_error=error), afterwards=give_back)
        now = self.clock()
        successor_id = uuid.uuid4().hex

        def open_successor(connection: sa.Connection) -> None:
            enrollments.open_new(
                connection,
                enrollment_id=successor_id,
                address=enrollment.address,
                authority=enrollment.authority,
                now=now,
                generation=enrollment.generation + 1,
                next_attempt_at=now + reorder_delay(enrollment.generation),
            )

        failed = Failed(last_error=error, successor_id=successor_id)
        return Step(failed, also=open_successor, afterwards=give_back)

    def _look_again(self, enrollment: Enrollment, retry_after: timedelta | None) -> Step:
        now = self.clock()
        pause = retry_after if retry_after is not None else poll_delay(now - enrollment.state_since)
        return Step(Deferred(next_attempt_at=now + pause))

    def _client(self, enrollment: Enrollment) -> AcmeClient:
        return self.authorities.client(enrollment.authority)

    def _authority(self, enrollment: Enrollment) -> Authority:
        authority = self.config().authorities.get(enrollment.authority)
        if authority is None:
            raise OrderDied(f"authority {enrollment.authority} is not configured any more", again=False)
        return authority

    def _authorization(self, enrollment: Enrollment) -> Authorization:
        """RFC 8555 §7.1.6. Raises OrderDied when it has ended without success."""
        assert enrollment.authorization_url is not None
        found = self._client(enrollment).fetch_authorization(enrollment.authorization_url)
        if found.status in {"invalid", "expired", "deactivated", "revoked"}:
            problem = found.challenge.error if found.challenge is not None else None
            raise OrderDied(f"the authorization is {found.status}{_words(problem)}", again=not _is_hopeless(problem))
        return found

    def _respond(self, enrollment: Enrollment) -> None:
        assert enrollment.challenge_url is not None
        self._client(enrollment).respond(enrollment.challenge_url)

    def _trust_roots(self, enrollment: Enrollment) -> list[bytes] | None:
        path = self._authority(enrollment).trust_roots
        try:
            return None if path is None else [path.read_bytes()]
        except OSError as error:
            raise AuthorityUnusable(
                f"authorities.{enrollment.authority}.trust_roots: {path}: {error.strerror}"
            ) from None


def _check_alive(order: Order) -> None:
    if order.status == "invalid":
        raise OrderDied(f"the order is invalid{_words(order.error)}", again=not _is_hopeless(order.error))


def _words(problem: Problem | None) -> str:
    """The authority's own words, where it had any."""
    return "" if problem is None else f": {problem}"


def _is_hopeless(problem: Problem | None) -> bool:
    """Whether the next order would meet the same problem until a person has changed something.

    ``unauthorized`` on a challenge is what a reply that was lost or mangled looks like, so it deserves another order.
    """
    return problem is not None and problem.needs_operator and problem.kind is not ErrorType.UNAUTHORIZED


def _stored(enrollment: Enrollment, issued: IssuedCertificate, key_id: str, now: datetime) -> StoredCertificate:
    return StoredCertificate(
        id=uuid.uuid4().hex,
        enrollment_id=enrollment.id,
        address=enrollment.address,
        authority=enrollment.authority,
        key_id=key_id,
        serial=issued.serial,
        issuer=issued.issuer,
        not_before=issued.not_before,
        not_after=issued.not_after,
        chain_pem=issued.chain_pem,
        stored_at=now,
    )
