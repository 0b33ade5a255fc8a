# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be delivered of a certificate, and why what was to be delivered is not any more, or cannot be."""

from collections.abc import Collection
from datetime import datetime

import sqlalchemy as sa

from acme_milter.config.schema import Config
from acme_milter.delivery.wanted import targets_for
from acme_milter.enrollment.model import State
from acme_milter.store import deliveries, enrollments, mailbox_keys, mailboxes
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.deliveries import Delivery
from acme_milter.store.withdrawals import LEFT, REASSIGNED
from acme_milter.worker.withdrawing import why_unused

_OUT_OF_USE = {
    State.SUPERSEDED: "a newer certificate took its place before its turn came",
    State.REVOKED: "the certificate was revoked before its turn came",
    State.EXPIRED: "the certificate expired before its turn came",
}


def plan_deliveries(
    connection: sa.Connection,
    config: Config,
    certificate: StoredCertificate,
    now: datetime,
    *,
    only: str | None = None,
    but: Collection[str] = (),
    again: bool = False,
) -> list[str]:
    """A row for each target of the mailbox's policy `but` these, or for the one called `only`, that it is not under way
    to or done for; with `again` also what is done. Returns the titles asked for.
    """
    targets = targets_for(config, certificate.address, certificate.principal, certificate.authority)
    kinds = {title: target.kind for title, target in targets.items() if only in {None, title} and title not in but}
    return deliveries.ask(connection, certificate.id, certificate.address, kinds, now, again=again)


def why_over(
    connection: sa.Connection, config: Config, one: Delivery, certificate: StoredCertificate, now: datetime
) -> str | None:
    """Why nobody wants this delivery any more, or it can never be; None where it is still wanted."""
    gone = _why_not_theirs(connection, config, certificate)
    if gone is not None:
        return gone
    unused = why_unused(connection, config, certificate)
    if unused in {LEFT, REASSIGNED}:
        return unused
    enrollment = enrollments.get(connection, certificate.enrollment_id)
    state = State.ACTIVE if enrollment is None else enrollment.state
    if state in _OUT_OF_USE:
        return _OUT_OF_USE[state]
    if certificate.not_after <= now:
        return _OUT_OF_USE[State.EXPIRED]
    if unused is not None:
        return f"{unused} before its turn came"
    targets = targets_for(config, certificate.address, certificate.principal, certificate.authority)
    if one.target not in targets:
        return f"the mailbox's policy has no target {one.target} any more"
    if deliveries.is_overtaken(connection, one.id):
        return "a newer certificate is there already"
    return mailbox_keys.get(connection, certificate.key_id).why_not_here if targets[one.target].takes_key else None


def _why_not_theirs(connection: sa.Connection, config: Config, certificate: StoredCertificate) -> str | None:
    member = config.member(certificate.address)
    domain = certificate.address.rpartition("@")[2]
    if member is not None:
        theirs = member.principal == certificate.principal
        return None if theirs else REASSIGNED
    if domain not in config.policies:
        return f"the domain {domain} is not configured any more"
    known = mailboxes.find(connection, certificate.address)
    has_left = known is not None and known.left_at is not None
    return LEFT if has_left else "the mailbox is not managed any more"
