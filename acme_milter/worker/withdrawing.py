# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be taken back where: certificates that nobody should use any more, from the targets that give back."""

from collections.abc import Collection
from datetime import datetime

import sqlalchemy as sa

from acme_milter.config.schema import Config
from acme_milter.delivery.whereabouts import takes_back
from acme_milter.eventlog import Event
from acme_milter.mailboxes.holder import holder_of, present_principal
from acme_milter.store import audit, certificates, deliveries, mailboxes, revocations, withdrawals
from acme_milter.store.certificates import StoredCertificate

BY_A_PERSON = "a person said so"
REVOKED = "it was revoked"


def plan_withdrawals(
    connection: sa.Connection,
    config: Config,
    certificate: StoredCertificate,
    why: str,
    now: datetime,
    *,
    titles: Collection[str] | None = None,
) -> list[str]:
    """Have the certificate taken back wherever it may be: from the targets of which the policy says so, or from those
    of these ``titles``, which a person names. Returns the titles, with those of deliveries that had not begun and end.
    """
    if titles is None:
        holder = holder_of(connection, config, certificate.address, certificate.principal)
        titles = [
            one.target
            for one in deliveries.of_certificate(connection, certificate.id)
            if takes_back(config, holder, one)
        ]
    changed = withdrawals.withdraw(connection, certificate.id, titles, why, now) if titles else []
    if changed:
        audit.record(
            connection,
            Event.WITHDRAWAL_ASKED,
            at=now,
            enrollment_id=certificate.enrollment_id,
            address=certificate.address,
            details={"targets": changed, "serial": certificate.serial, "why": why},
        )
    return changed


def withdraw_all_of(
    connection: sa.Connection, config: Config, address: str, principal: str, why: str, now: datetime
) -> None:
    """Of everything that this person has had delivered for the mailbox, what was superseded included."""
    for certificate_id in withdrawals.certificates_at(connection, address, principal):
        plan_withdrawals(connection, config, certificates.get(connection, certificate_id), why, now)


def revoke(
    connection: sa.Connection, config: Config, certificate: StoredCertificate, reason: int, now: datetime, by: str
) -> bool:
    """Have the certificate revoked, and taken back meanwhile. False: it is revoked already."""
    asked = revocations.ask(connection, certificate, reason, now, by)
    plan_withdrawals(connection, config, certificate, withdrawals.REVOKED if asked else REVOKED, now)
    return asked


def why_unused(connection: sa.Connection, config: Config, certificate: StoredCertificate) -> str | None:
    """Why nobody should use the certificate any more; None where that cannot be said."""
    known = mailboxes.find(connection, certificate.address)
    if known is not None and known.left_at is not None:
        return withdrawals.LEFT
    if present_principal(connection, config, certificate.address) not in {None, certificate.principal}:
        return withdrawals.REASSIGNED
    return withdrawals.REVOKED if revocations.get(connection, certificate.id) is not None else None
