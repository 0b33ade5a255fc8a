# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may have a mailbox's private key: why it does not leave, and when ours is destroyed."""

from collections.abc import Callable
from datetime import datetime

import sqlalchemy as sa

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.config.policy import Policy
from acme_milter.config.schema import Config
from acme_milter.delivery.wanted import targets_for
from acme_milter.enrollment.model import Enrollment
from acme_milter.eventlog import Event, log_event
from acme_milter.store import audit, deliveries, delivery_leases, mailbox_keys
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.deliveries import DeliveryState
from acme_milter.store.mailbox_keys import StoredMailboxKey


def why_withheld(custody: str | None, key: StoredMailboxKey, *, to_signing_milter: bool = False) -> str | None:
    """Why the key is not given out, for people; None where it may be. ``custody``: the policy's, where there is one."""
    if key.why_not_here is not None:
        return key.why_not_here
    if custody == "gateway" and not to_signing_milter:
        return "the key stays on this server, for its signing milter alone (custody: gateway)"
    return None


def keyless(
    connection: sa.Connection, config: Config, certificate: StoredCertificate, *, only: str | None, again: bool
) -> dict[str, str]:
    """Why, by title, those targets get nothing that somebody asks for now, or the one called ``only``: they take the
    key, and that is not here, and never will be.
    """
    why = mailbox_keys.get(connection, certificate.key_id).why_not_here
    if why is None:
        return {}
    targets = targets_for(config, certificate.address, certificate.principal, certificate.authority)
    known = {one.target: one for one in deliveries.of_certificate(connection, certificate.id)}
    wanted = [title for title, target in targets.items() if target.takes_key and only in {None, title}]
    return {title: why for title in wanted if title not in known or known[title].begins_anew(again=again)}


_KEY_USAGE = {
    KeyUsageKind.DUAL: "without keyUsage",
    KeyUsageKind.SIGN: "with keyUsage digitalSignature",
    KeyUsageKind.ENCRYPT: "with keyUsage keyEncipherment (RSA) or keyAgreement (EC)",
}


def wanted_request(address: str, policy: Policy, usage: KeyUsageKind) -> str:
    """What a mailbox whose key is elsewhere has to bring, and by which command."""
    either = policy.certificate.layout == "dual"
    which = f", first one {_KEY_USAGE[usage]}" if either else ""
    return (
        f"custody: csr, so the mailbox brings a certificate request of its own{which};"
        f" give it with: acme-milter cert request {address} --csr FILE"
    )


def brought_key(connection: sa.Connection, enrollment: Enrollment) -> str | None:
    """The key of a request that the mailbox has brought: another order is made with it, and nobody asked again."""
    if enrollment.key_id is None:
        return None
    key = mailbox_keys.get(connection, enrollment.key_id)
    return key.id if not key.sealed_key and key.destroyed_at is None else None


class DeliverOnce:
    """Destroys keys that have reached whoever was to have them (custody: deliver_once)."""

    def __init__(self, config: Callable[[], Config], clock: Callable[[], datetime]) -> None:
        self._config = config
        self._clock = clock

    def look(self, connection: sa.Connection, certificate: StoredCertificate) -> None:
        """In the transaction in which a delivery was done: was it the last of those that take the key?

        While a worker whose lease was taken over may still bring what nobody could open, the key stays for another
        delivery.
        """
        config = self._config()
        policy = config.policy_for(certificate.address)
        if policy is None or policy.custody != "deliver_once":
            return
        targets = targets_for(config, certificate.address, certificate.principal, certificate.authority)
        wanted = {title for title, target in targets.items() if target.takes_key}
        rows = deliveries.of_certificate(connection, certificate.id)
        done = {one.target for one in rows if one.state is DeliveryState.DONE}
        now = self._clock()
        if wanted and wanted <= done and not delivery_leases.may_overlap(connection, certificate.id, now):
            destroy(connection, certificate, now, "every target that takes it has it")


def destroy(connection: sa.Connection, certificate: StoredCertificate, now: datetime, why: str) -> None:
    """Overwrite the certificate's sealed key, once; no backup or replica is reached by this."""
    if not mailbox_keys.destroy(connection, certificate.key_id, now):
        return
    # What waits for a person would need the key, or does not: its turn comes, and tells.
    rows = deliveries.of_certificate(connection, certificate.id)
    deliveries.retry(connection, [one.id for one in rows if one.withdraw_why is None], now)
    audit.record(
        connection,
        Event.KEY_DESTROYED,
        at=now,
        enrollment_id=certificate.enrollment_id,
        address=certificate.address,
        details={"serial": certificate.serial, "why": why},
    )
    log_event(Event.KEY_DESTROYED, rcpt=certificate.address, serial=certificate.serial, reason=why)
