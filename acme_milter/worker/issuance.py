# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps from a validated challenge to an active certificate: finalize, fetch, check, clean up."""

import logging
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.acme.problem import AcmeError, BadAnswer
from acme_milter.certificate.chain import load_trust_roots
from acme_milter.certificate.issued import IssuedCertificate, check_issued
from acme_milter.certificate.lint import check_lint, lint_is_installed
from acme_milter.certificate.refusal import CertificateRefused
from acme_milter.enrollment.backoff import poll_delay
from acme_milter.enrollment.kinds import in_use, supersedes
from acme_milter.enrollment.model import Enrollment, State
from acme_milter.enrollment.staging import is_staging
from acme_milter.enrollment.state_machine import (
    Activated,
    CertificateIssued,
    CertificateReady,
    FinalizeSent,
    Rehearsed,
    Superseded,
    advance,
)
from acme_milter.eventlog import Event, log_event
from acme_milter.store import audit, certificates, enrollments, mailbox_keys, renewals
from acme_milter.store.certificates import StoredCertificate
from acme_milter.worker.authorities import AuthorityUnusable
from acme_milter.worker.chains import ChainRefused, choose_chain
from acme_milter.worker.delivery_plan import plan_deliveries
from acme_milter.worker.following import open_next
from acme_milter.worker.order_desk import OrderDesk
from acme_milter.worker.renewer import plan
from acme_milter.worker.step import OrderDied, Step, check_alive

CLEANUP_ATTEMPTS = 3
FETCH_ATTEMPTS = 8
"""About four minutes in which a proxy may stop answering for the authority; then what comes is taken for its word."""


@dataclass(frozen=True, slots=True)
class Issuance:
    """Each method is one step, and at most one ACME request that changes something."""

    desk: OrderDesk

    def finalize(self, enrollment: Enrollment) -> Step:
        """RFC 8555 §7.4: read the order first, since an earlier CSR may have arrived though its answer did not."""
        client = self.desk.client(enrollment)
        assert enrollment.order_url is not None
        order = client.fetch_order(enrollment.order_url)
        check_alive(order)
        if order.status == "ready":
            assert enrollment.key_id is not None
            with self.desk.database.read() as connection:
                key = mailbox_keys.get(connection, enrollment.key_id)
            order = client.finalize(order, key.csr)
            check_alive(order)
            if order.certificate is None:
                now = self.desk.clock()
                pause = order.retry_after or poll_delay(timedelta(0))
                return Step(FinalizeSent(finalize_sent_at=now, next_attempt_at=now + pause))
        if order.status == "valid" and order.certificate is not None:
            return Step(CertificateReady(certificate_url=order.certificate))
        return self.desk.look_again(enrollment, order.retry_after)

    def fetch_certificate(self, enrollment: Enrollment) -> Step:
        """RFC 8555 §7.4.2 and every check on what came; nothing unchecked is ever stored as active."""
        assert enrollment.certificate_url is not None
        assert enrollment.key_id is not None
        with self.desk.database.read() as connection:
            key = mailbox_keys.get(connection, enrollment.key_id)
        try:
            issued = self._take(enrollment, key.spki)
        except BadAnswer as nonsense:
            if enrollment.attempts < FETCH_ATTEMPTS:
                raise
            raise OrderDied(f"the certificate is not what was ordered: {nonsense}", again=False) from None
        except ChainRefused as error:
            self._keep_refused(enrollment, error.chain_pem, error.refused)
            raise OrderDied(f"the certificate is not what was ordered: {error.refused}", again=False) from None
        stored = _stored(enrollment, issued, key.id, self.desk.clock())
        return Step(
            CertificateIssued(certificate_id=stored.id),
            also=lambda connection: certificates.insert(connection, stored),
        )

    def _take(self, enrollment: Enrollment, public_key_spki: bytes) -> IssuedCertificate:
        """Raises ChainRefused, BadAnswer, and what may pass."""
        assert enrollment.certificate_url is not None

        def check(chain_pem: bytes) -> IssuedCertificate:
            issued = check_issued(
                chain_pem,
                address=enrollment.address,
                aliases=enrollment.aliases,
                public_key_spki=public_key_spki,
                now=self.desk.clock(),
                trust_roots=self._trust_roots(enrollment),
                usage=enrollment.usage,
            )
            self._lint(enrollment, issued)
            return issued

        preferred = self.desk.authority(enrollment).preferred_chain
        issued, is_it = choose_chain(self.desk.client(enrollment), enrollment.certificate_url, check, preferred)
        if not is_it:
            log_event(
                Event.CHAIN_NOT_OFFERED, level=logging.WARNING, rcpt=enrollment.address,
                authority=enrollment.authority, order=enrollment.id, wanted=preferred,
            )  # fmt: skip
        return issued

    def _lint(self, enrollment: Enrollment, issued: IssuedCertificate) -> None:
        authority = self.desk.authority(enrollment)
        if authority.lint == "require" or (authority.lint == "auto" and lint_is_installed()):
            required = authority.lint == "require"
            check_lint(issued.leaf_der, enrollment.address, ignored=authority.lint_ignore, required=required)

    def _keep_refused(self, enrollment: Enrollment, chain_pem: bytes, refused: CertificateRefused) -> None:
        """F-32: it is not used, but not thrown away either: somebody will have to talk to the authority about it."""
        log_event(
            Event.CERTIFICATE_REFUSED, level=logging.ERROR, rcpt=enrollment.address, order=enrollment.id,
            reason=refused.reason,
        )  # fmt: skip
        with self.desk.database.write() as connection:
            audit.record(
                connection,
                Event.CERTIFICATE_REFUSED,
                at=self.desk.clock(),
                enrollment_id=enrollment.id,
                address=enrollment.address,
                details={"reason": refused.reason, "chain": chain_pem.decode("ascii", "replace")},
            )

    def clean_up(self, enrollment: Enrollment) -> Step:
        """T26: a valid authorization left lying about would let a thief of the account key order without a mail."""
        for url in enrollment.authorization_urls:
            try:
                self.desk.client(enrollment).deactivate_authorization(url)
            except AcmeError as error:
                if error.temporary and enrollment.attempts < CLEANUP_ATTEMPTS:
                    raise
            except AuthorityUnusable:  # not configured any more, perhaps
                if enrollment.attempts < CLEANUP_ATTEMPTS:
                    raise
        if is_staging(enrollment.authority):
            return Step(Rehearsed())
        now = self.desk.clock()

        def take_over(connection: sa.Connection) -> None:
            _supersede(connection, enrollment, now)
            assert enrollment.certificate_id is not None
            config, certificate = self.desk.config(), certificates.get(connection, enrollment.certificate_id)
            plan(connection, config, certificate, now)
            plan_deliveries(connection, config, certificate, now)
            active = enrollments.get(connection, enrollment.id)
            assert active is not None
            open_next(connection, self.desk.config(), active, now)

        return Step(Activated(), also=take_over)

    def _trust_roots(self, enrollment: Enrollment) -> list[bytes] | None:
        path = self.desk.authority(enrollment).trust_roots
        if path is None:
            return None
        try:
            roots = [path.read_bytes()]
            load_trust_roots(roots)
        except (OSError, ValueError) as error:
            what = error.strerror if isinstance(error, OSError) else "no certificates that can be read"
            raise AuthorityUnusable(f"authorities.{enrollment.authority}.trust_roots: {path}: {what}") from None
        return roots


def _supersede(connection: sa.Connection, enrollment: Enrollment, now: datetime) -> None:
    """The mailbox's older certificates of this authority, and the one that was to be replaced, are not renewed: those
    for the same use, and one that signs and encrypts only when a signing and an encrypting one are there.

    Another person's are left to `Leaving`: superseded, they would look dealt with, and not be revoked by policy.
    """
    known = [one for one in enrollments.of_mailbox(connection, enrollment.address) if one.id != enrollment.id]
    mine = [one for one in known if one.principal == enrollment.principal]
    beside = list(in_use(mine, {enrollment.principal}))
    for other in mine:
        replaced = enrollment.replaces_id is not None and other.certificate_id == enrollment.replaces_id
        same = other.authority == enrollment.authority or replaced
        if not same or not supersedes(enrollment.usage, other.usage, beside):
            continue
        if other.state is State.ACTIVE:
            enrollments.save(connection, advance(other, Superseded(), now))
        elif other.state is State.EXPIRED and other.certificate_id is not None:
            renewals.forget(connection, other.certificate_id)


def _stored(enrollment: Enrollment, issued: IssuedCertificate, key_id: str, now: datetime) -> StoredCertificate:
    return StoredCertificate(
        id=uuid.uuid4().hex,
        enrollment_id=enrollment.id,
        address=enrollment.address,
        principal=enrollment.principal,
        authority=enrollment.authority,
        key_id=key_id,
        serial=issued.serial,
        issuer=issued.issuer,
        not_before=issued.not_before,
        not_after=issued.not_after,
        chain_pem=issued.chain_pem,
        stored_at=now,
        usage=enrollment.usage,
    )
