# SPDX-License-Identifier: GPL-3.0-or-later
"""The revoker: has certificates revoked that somebody or a policy wants revoked, until the authority has done it."""

import contextlib
import functools
import logging
import random
from collections.abc import Callable
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from acme_milter.acme.problem import AcmeError, ErrorType, RateLimited, ServerRefused
from acme_milter.acme.revocation import RevocationReason
from acme_milter.config.schema import Config
from acme_milter.enrollment.backoff import step_delay
from acme_milter.enrollment.state_machine import TRANSITIONS, Revoked, advance
from acme_milter.eventlog import Event, log_event
from acme_milter.keys.client import KeydUnavailable
from acme_milter.keys.refusal import KeydRefused
from acme_milter.store import audit, certificates, enrollments, revocations
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database
from acme_milter.store.revocations import Revocation
from acme_milter.worker.authorities import Authorities, AuthorityUnusable
from acme_milter.worker.each_authority import EachAuthority
from acme_milter.worker.withdrawing import REVOKED, plan_withdrawals

EVERY = timedelta(seconds=5)
DAILY = timedelta(days=1)
"""Where a person has to change something first."""

AT_ONCE = 50


class Revoker:
    """One thread for each authority that has something to do, so that one that hangs holds up no other (N7)."""

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        database: Database,
        authorities: Authorities,
        clock: Callable[[], datetime],
    ) -> None:
        self._config = config
        self._database = database
        self._authorities = authorities
        self._clock = clock
        self._turns = EachAuthority("revocations")

    def work(self) -> None:
        """Begin what is due, and return at once."""
        with self._database.read() as connection:
            wanted = revocations.authorities_due(connection, self._clock())
        for authority in wanted:
            self._turns.begin(authority, functools.partial(self.work_off, authority))

    def stop(self) -> None:
        """Return when the requests that are under way have ended."""
        self._turns.stop()

    def work_off(self, authority: str) -> None:
        """Everything that is due at the authority, one after the other, in the caller's thread."""
        while not self._turns.is_stopping():
            with self._database.read() as connection:
                due = revocations.due(connection, authority, self._clock(), AT_ONCE)
            if not due:
                return
            for one in due:
                if self._turns.is_stopping() or not self._revoke(one):
                    return

    def _revoke(self, one: Revocation) -> bool:
        """False when the authority is better left alone for now."""
        with self._database.read() as connection:
            certificate = certificates.get(connection, one.certificate_id)
        if certificate.not_after <= self._clock():
            self._failed(one, certificate, "it expired before it could be revoked", None)
            return True
        try:
            self._ask_authority(one, certificate)
        except (AcmeError, KeydUnavailable, KeydRefused, AuthorityUnusable) as error:
            pause = self._pause(one, certificate, error)
            self._failed(one, certificate, str(error), self._clock() + pause)
            return not isinstance(error, RateLimited | KeydUnavailable)
        self._done(one, certificate)
        return True

    def _ask_authority(self, one: Revocation, certificate: StoredCertificate) -> None:
        """RFC 8555 §7.6. That it is revoked already is as good."""
        client = self._authorities.client_that_issued(certificate)
        leaf = x509.load_pem_x509_certificates(certificate.chain_pem)[0].public_bytes(Encoding.DER)
        try:
            client.revoke(leaf, RevocationReason(one.reason))
        except ServerRefused as refused:
            if refused.kind is not ErrorType.BAD_REVOCATION_REASON:
                raise
            client.revoke(leaf)  # that it is revoked matters more than why

    def _pause(self, one: Revocation, certificate: StoredCertificate, error: Exception) -> timedelta:
        may_pass = isinstance(error, KeydUnavailable) or (isinstance(error, AcmeError) and error.temporary)
        if may_pass or self._key_has_just_changed(certificate):
            asked = error.retry_after if isinstance(error, AcmeError) else None
            pause = step_delay(one.attempts + 1, random.random())  # noqa: S311 spreads load, hides nothing
            return max(pause, asked or timedelta(0))
        return DAILY

    def _key_has_just_changed(self, certificate: StoredCertificate) -> bool:
        with self._database.read() as connection:
            enrollment = enrollments.get(connection, certificate.enrollment_id)
        return self._authorities.key_has_just_changed(enrollment)

    def _failed(self, one: Revocation, certificate: StoredCertificate, error: str, again: datetime | None) -> None:
        with self._database.write() as connection:
            revocations.failed(connection, one.certificate_id, error, again)
        log_event(
            Event.REVOCATION_FAILED,
            level=logging.WARNING,
            rcpt=certificate.address,
            authority=one.authority,
            serial=certificate.serial,
            error=error,
            next=again,
        )

    def _done(self, one: Revocation, certificate: StoredCertificate) -> None:
        written = False
        while not written:
            with contextlib.suppress(enrollments.StaleVersion):
                self._write_done(one, certificate)
                written = True
        log_event(
            Event.CERTIFICATE_REVOKED,
            rcpt=certificate.address,
            authority=one.authority,
            serial=certificate.serial,
            reason=RevocationReason(one.reason).name.lower().replace("_", "-"),
        )

    def _write_done(self, one: Revocation, certificate: StoredCertificate) -> None:
        now = self._clock()
        with self._database.write() as connection:
            revocations.done(connection, one.certificate_id, now)
            enrollment = enrollments.get(connection, certificate.enrollment_id)
            if enrollment is not None and (enrollment.state, Revoked) in TRANSITIONS:
                enrollments.save(connection, advance(enrollment, Revoked(), now))
            audit.record(
                connection,
                Event.CERTIFICATE_REVOKED,
                at=now,
                enrollment_id=certificate.enrollment_id,
                address=certificate.address,
                details={"serial": certificate.serial, "reason": one.reason},
            )
            # Where the wish was there before anybody could take back, or the policy has changed since.
            plan_withdrawals(connection, self._config(), certificate, REVOKED, now)
