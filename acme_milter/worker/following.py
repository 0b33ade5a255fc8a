# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens the next of a mailbox's certificates in the very transaction in which the one before it has come to its end."""

from datetime import datetime

import sqlalchemy as sa

from acme_milter.config.schema import Config
from acme_milter.enrollment.kinds import in_use, next_of, turns_taken, usages_of
from acme_milter.enrollment.model import Cause, Enrollment, State
from acme_milter.enrollment.staging import is_staging
from acme_milter.eventlog import Event
from acme_milter.store import audit, bulk_items, enrollments


def open_next(connection: sa.Connection, config: Config, ended: Enrollment, now: datetime) -> str | None:
    """``ended`` as it is stored now: in use, or failed for good. Returns the id of what was opened, None for nothing.

    It goes on where the first one was ordered, for the same person and the same reason.
    """
    member = config.member(ended.address)
    policy = None if member is None else config.policy_for(member.address)
    if member is None or policy is None or policy.mode == "observe" or ended.authority not in config.authorities:
        return None
    if ended.principal not in {member.principal, member.address}:
        return None
    wanted = usages_of(policy.certificate.layout)
    known = enrollments.of_mailbox(connection, ended.address)
    trial = is_staging(ended.authority)
    # One at a time, whichever authority it is at: whatever is open goes on with the rest when it ends.
    if len(wanted) == 1 or any(one.is_open and is_staging(one.authority) == trial for one in known):
        return None
    # Who asks gets both from the authority they ask; what goes on by itself is content with what is there.
    at = ended.authority if ended.cause is Cause.ASKED else None
    held = in_use(known, {ended.principal}, at)
    also = None
    if ended.bulk_run_id is not None:
        also = bulk_items.also_replaced(connection, ended.bulk_run_id, ended.address)
        # When a run repeats what failed, the other one may have been replaced long ago.
        if not any(one.certificate_id == also and one.state is State.ACTIVE for one in known):
            also = None
    opening = next_of(wanted, ended, held, also, turns_taken(known, ended))
    if opening is None:
        return None
    opened = enrollments.open_new(
        connection,
        address=ended.address,
        principal=ended.principal,
        authority=ended.authority,
        cause=ended.cause,
        replaces_id=opening.replaces_id,
        bulk_run_id=ended.bulk_run_id,
        now=now,
        usage=opening.usage,
    )
    details = {"cause": ended.cause, "usage": opening.usage, "after": ended.id}
    audit.record(
        connection, Event.ENROLLMENT_OPENED, at=now, enrollment_id=opened.id, address=opened.address, details=details
    )
    return opened.id
