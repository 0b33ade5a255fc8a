# SPDX-License-Identifier: GPL-3.0-or-later
"""The renewer: plans a certificate's renewal, opens it when it is due, or at once when a person asks for it."""

import random
from collections.abc import Callable, Collection
from datetime import datetime
from typing import cast

import sqlalchemy as sa

from acme_milter.config.schema import Config
from acme_milter.enrollment.kinds import in_use, renewal_of, renewed_at_once, usages_of
from acme_milter.enrollment.model import Cause, State
from acme_milter.enrollment.renewal import (
    DAY,
    Obstacle,
    day_of,
    not_sooner_than,
    obstacle,
    planned_moment,
    try_again_after,
)
from acme_milter.eventlog import Event, log_event
from acme_milter.report.forecast import policy_of, span_by
from acme_milter.store import audit, enrollments, renewals
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database
from acme_milter.store.renewals import Due, Renewal
from acme_milter.worker.choice import Choosing, open_elsewhere

AT_ONCE = 100
"""Enrollments in one transaction: a challenge mail's commit must not wait longer than a fraction of a second."""


def plan(connection: sa.Connection, config: Config, certificate: StoredCertificate, now: datetime) -> Renewal:
    """Give an active certificate its row; the authority's word on it is asked for right after (RFC 9773 §4.3)."""
    renewals.forget(connection, certificate.id)
    span = span_by(policy_of(config, certificate.address), certificate.not_before, certificate.not_after)
    authority = renewing_authority(config, certificate)
    planned = renewals.by_day(connection, authority, day_of(span.earliest), day_of(span.latest))
    active = renewals.number_active(connection, authority) + 1
    due_at = planned_moment(span, planned, active, certificate.id, now)
    ours = authority == certificate.authority
    renewal = Renewal(
        certificate_id=certificate.id,
        authority=authority,
        address=certificate.address,
        due_at=max(due_at, not_sooner_than(certificate.stored_at, certificate.not_after)) if ours else due_at,
        urgent_at=span.urgent,
        ask_at=now if ours else None,
    )
    renewals.plan(connection, renewal)
    return renewal


def renewing_authority(config: Config, certificate: StoredCertificate) -> str:
    """Its own, while that is configured; for one from elsewhere, whoever the mailbox's policy names."""
    if certificate.authority in config.authorities:
        return certificate.authority
    return next(iter(policy_of(config, certificate.address).authorities), certificate.authority)


def obstacle_to(config: Config, due: Due, missing: Collection[str]) -> Obstacle | None:
    """Why it is not opened; ``missing`` are mailboxes that their source does not list at present."""
    member = config.member(due.address)
    policy = None if member is None else config.policy_for(member.address)
    return obstacle(
        managed=member is not None,
        missing=due.address in missing,
        observed=policy is not None and policy.mode == "observe",
        has_authority=policy is not None and bool(policy.authorities) and policy.authorities[0] in config.authorities,
        # While nobody was known by name, the address stood for whoever has the mailbox.
        same_person=member is not None and due.principal in {member.principal, due.address},
    )


def open_renewal(
    connection: sa.Connection,
    config: Config,
    due: Due,
    cause: Cause,
    missing: Collection[str],
    now: datetime,
    choosing: Choosing,
) -> bool:
    """Open the successor of a certificate that is due, and move its row on; False when something is in the way.

    It is the first authority's of the policy, whoever has issued the certificate; an urgent one goes to whichever of
    them can be used.
    """
    if put_off_hindered(connection, config, due, missing, now):
        return False
    member, policy = config.member(due.address), config.policy_for(due.address)
    assert member is not None
    assert policy is not None
    authority = choosing.for_new(connection, policy, now, cause)
    if authority != due.authority and _has_longer(connection, due, authority):
        _put_off(connection, due, now, for_good=True)  # the mailbox has moved there already
        return False
    again = now + try_again_after(due.not_after - due.not_before)
    if open_elsewhere(connection, member.address, policy) is not None:
        renewals.move(connection, due.certificate_id, again)
        return False
    held = in_use(enrollments.of_mailbox(connection, due.address), {member.principal, due.principal})
    opening = renewal_of(usages_of(policy.certificate.layout), held, due.usage, due.certificate_id)
    if opening is None:
        _put_off(connection, due, now, for_good=True)  # certificates of another layout are there already
        return False
    try:
        opened = enrollments.open_new(
            connection,
            address=member.address,
            principal=member.principal,
            authority=authority,
            cause=cause,
            replaces_id=opening.replaces_id,
            now=now,
            usage=opening.usage,
        )
    except enrollments.AlreadyOpen:
        renewals.move(connection, due.certificate_id, again)
        return False
    renewals.move(connection, due.certificate_id, again, opened_at=now)
    audit.record(
        connection,
        Event.ENROLLMENT_OPENED,
        at=now,
        enrollment_id=opened.id,
        address=member.address,
        details={"cause": cause, "replaces": due.certificate_id},
    )
    return True


def put_off_hindered(
    connection: sa.Connection, config: Config, due: Due, missing: Collection[str], now: datetime
) -> bool:
    """Whether something is in the way; then its row is moved on."""
    hindered = obstacle_to(config, due, missing)
    if hindered is not None:
        _put_off(connection, due, now, for_good=hindered in {Obstacle.NOT_MANAGED, Obstacle.OTHER_PERSON})
    return hindered is not None


def _put_off(connection: sa.Connection, due: Due, now: datetime, *, for_good: bool) -> None:
    """What is in the way may go away again; ``for_good``: not any more once the certificate has ended."""
    if for_good and due.not_after <= now:
        renewals.forget(connection, due.certificate_id)
        return
    # Looked at again about a day later, scattered: those that are put off together must not come back together.
    pause = min(DAY, (due.not_after - due.not_before) / 10) * (0.5 + random.random())  # noqa: S311 spreads load, hides nothing
    renewals.move(connection, due.certificate_id, now + pause)


def _has_longer(connection: sa.Connection, due: Due, authority: str) -> bool:
    known = enrollments.of_mailbox(connection, due.address)
    with_it = (one for one in known if one.authority == authority and one.usage is due.usage)
    ends = [renewals.end_of(connection, one.certificate_id) for one in with_it if one.state is State.ACTIVE]
    return any(end is not None and end > due.not_after for end in ends)


class Renewer:
    """Answers the control socket's call ``renew``."""

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        database: Database,
        clock: Callable[[], datetime],
        work_is_due: Callable[[], None],
        choosing: Choosing | None = None,
    ) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._work_is_due = work_is_due
        self._choosing = choosing or Choosing(config)

    def answer(self, header: dict[str, object]) -> dict[str, object]:
        """``addresses``: mailboxes whose certificate is to be renewed now; at most some thousands."""
        addresses = [str(address) for address in cast("list[object]", header.get("addresses") or [])]
        results: list[dict[str, object]] = []
        for start in range(0, len(addresses), AT_ONCE):
            with self._database.write() as connection:
                results += [self._renew(connection, address) for address in addresses[start : start + AT_ONCE]]
        opened = sum(result["outcome"] == "opened" for result in results)
        if opened:
            log_event(Event.ENROLLMENT_OPENED, count=opened, cause=Cause.ASKED)
            self._work_is_due()
        return {"results": results}

    def _renew(self, connection: sa.Connection, address: str) -> dict[str, object]:
        config, now = self._config(), self._clock()
        member = config.member(address)
        policy = None if member is None else config.policy_for(member.address)
        if member is None or policy is None or not policy.authorities:
            return {"address": address, "outcome": "not-managed", "id": None}
        mailbox, authority = member.address, self._choosing.for_new(connection, policy, now, Cause.ASKED)
        known = enrollments.of_mailbox(connection, mailbox)
        open_one = next((one for one in known if one.is_open and one.authority in policy.authorities), None)
        if open_one is not None:
            return {"address": mailbox, "outcome": "already-open", "id": open_one.id}
        # The authority's own certificates first: those it can be told to replace.
        mine = sorted(known, key=lambda one: one.authority != authority)
        held = in_use(mine, {member.principal, mailbox})
        opening = renewed_at_once(usages_of(policy.certificate.layout), held)
        if opening is None or opening.replaces_id is None:
            return {"address": mailbox, "outcome": "no-certificate", "id": None}
        opened = enrollments.open_new(
            connection,
            address=mailbox,
            principal=member.principal,
            authority=authority,
            now=now,
            replaces_id=opening.replaces_id,
            usage=opening.usage,
        )
        _mark_opened(connection, opening.replaces_id, now)
        audit.record(connection, Event.ENROLLMENT_OPENED, at=now, enrollment_id=opened.id, address=mailbox)
        return {"address": mailbox, "outcome": "opened", "id": opened.id}


def _mark_opened(connection: sa.Connection, certificate_id: str, now: datetime) -> None:
    row = renewals.get(connection, certificate_id)
    if row is not None:
        renewals.move(connection, certificate_id, max(row.due_at, now + DAY), opened_at=now)
