# SPDX-License-Identifier: GPL-3.0-or-later
"""Opening orders at staging services: the whole way is walked, and nothing of a mailbox's changes by it."""

from datetime import datetime

import sqlalchemy as sa

from acme_milter.config.schema import Config
from acme_milter.enrollment.kinds import usages_of
from acme_milter.enrollment.staging import staging_of
from acme_milter.eventlog import Event
from acme_milter.store import audit, enrollments


def rehearse(
    connection: sa.Connection, config: Config, address: str, now: datetime, authority: str | None = None
) -> dict[str, object]:
    """Open one at the staging service of ``authority``, or else of the first that the mailbox's policy names.

    The outcome as `enroll` has it. A mailbox with an order under way is left alone: the challenge mails of a service
    and of its staging service may look the same.
    """
    member = config.member(address)
    policy = None if member is None else config.policy_for(member.address)
    if member is None or policy is None:
        return {"address": address, "outcome": "not-managed", "id": None}
    staging = staging_of(authority or policy.authorities[0])
    if staging not in config.authorities:
        return {"address": member.address, "outcome": "no-staging", "id": None}
    known = enrollments.of_mailbox(connection, member.address)
    same = next((one for one in known if one.is_open and one.authority == staging), None)
    if same is not None:
        return {"address": member.address, "outcome": "already-open", "id": same.id}
    if any(one.is_open for one in known):
        return {"address": member.address, "outcome": "order-open", "id": None}
    opened = enrollments.open_new(
        connection,
        address=member.address,
        principal=member.principal,
        authority=staging,
        now=now,
        usage=usages_of(policy.certificate.layout)[0],
    )
    audit.record(
        connection,
        Event.ENROLLMENT_OPENED,
        at=now,
        enrollment_id=opened.id,
        address=member.address,
        details={"staging": True},
    )
    return {"address": member.address, "outcome": "opened", "id": opened.id}
