# SPDX-License-Identifier: GPL-3.0-or-later
"""What every step of an order needs: who to ask, what was configured, what time it is, and until when."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from acme_milter.acme.authorization import Authorization
from acme_milter.acme.client import AcmeClient
from acme_milter.config.schema import Authority, Config
from acme_milter.enrollment.backoff import poll_delay
from acme_milter.enrollment.gate import CHALLENGE_LIFETIME
from acme_milter.enrollment.model import Enrollment
from acme_milter.enrollment.state_machine import Deferred
from acme_milter.keys.client import KeydClient
from acme_milter.store.database import Database
from acme_milter.worker.authorities import Authorities
from acme_milter.worker.caa import MayIssue
from acme_milter.worker.caa import nobody_asked as nobody_asked_caa
from acme_milter.worker.clock_watch import WRONG
from acme_milter.worker.delivery_check import MailArrives, nobody_asked
from acme_milter.worker.step import OrderDied, Step, is_hopeless, words_of
from acme_milter.worker.vault import Vault


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderDesk:
    """Shared by all steps and all threads; holds no state of its own."""

    config: Callable[[], Config]
    database: Database
    vault: Vault
    keyd: KeydClient
    authorities: Authorities
    clock: Callable[[], datetime]
    mail_arrives: MailArrives = nobody_asked
    may_issue: MayIssue = nobody_asked_caa

    def client(self, enrollment: Enrollment) -> AcmeClient:
        return self.authorities.client_of(enrollment)

    def authority(self, enrollment: Enrollment) -> Authority:
        authority = self.config().authorities.get(enrollment.authority)
        if authority is None:
            raise OrderDied(f"authority {enrollment.authority} is not configured any more", again=False)
        return authority

    def profile(self, enrollment: Enrollment) -> str | None:
        """draft-ietf-acme-profiles: the one that the mailbox's policy names, else the authority's; None: its choice."""
        policy = self.config().policy_for(enrollment.address)
        own = None if policy is None else policy.certificate.profile
        return own or self.authority(enrollment).profile

    def authorization(self, enrollment: Enrollment) -> Authorization:
        """RFC 8555 §7.1.6. Raises OrderDied when it has ended without success."""
        assert enrollment.authorization_url is not None
        found = self.client(enrollment).fetch_authorization(enrollment.authorization_url)
        if found.status in {"invalid", "expired", "deactivated", "revoked"}:
            problem = found.challenge.error if found.challenge is not None else None
            raise OrderDied(f"the authorization is {found.status}{words_of(problem)}", again=not is_hopeless(problem))
        return found

    def deadline(self, enrollment: Enrollment) -> datetime:
        assert enrollment.began_ordering_at is not None
        deadline = enrollment.began_ordering_at + min(CHALLENGE_LIFETIME, self.authority(enrollment).order_lifetime)
        if enrollment.order_expires_at is not None:
            deadline = min(deadline, enrollment.order_expires_at)
        return deadline

    def clock_error(self, enrollment: Enrollment) -> timedelta:
        """By how much our clock is ahead of the authority's, where that is so much that no deadline can go by ours.

        Nothing where it is right, or about right (F-12, F-13).
        """
        skew = self.authorities.clock_skew(enrollment.authority)
        return skew if skew is not None and abs(skew) > WRONG else timedelta(0)

    def look_again(self, enrollment: Enrollment, retry_after: timedelta | None) -> Step:
        now = self.clock()
        pause = retry_after if retry_after is not None else poll_delay(now - enrollment.state_since)
        return Step(Deferred(next_attempt_at=now + pause))
