# SPDX-License-Identifier: GPL-3.0-or-later
"""Who an address belongs to: what the configuration says, and what a source has said of it."""

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from acme_milter.config.member import Member
from acme_milter.config.schema import Config, Policy
from acme_milter.protocol.mailbox import InvalidMailbox, Mailbox
from acme_milter.report.unanswerable import Unanswerable
from acme_milter.store import mailboxes
from acme_milter.store.mailboxes import StoredMailbox


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of ``address``, which is as configured where it is managed; ``policy`` is None where it is not.

    ``sourced`` is what the sources have said, also of one that has left.
    """

    address: str
    member: Member | None
    sourced: StoredMailbox | None
    policy: Policy | None

    @property
    def domain(self) -> str:
        return self.address.rpartition("@")[2]


def look_up(connection: sa.Connection, config: Config, address: str) -> Known:
    """Everything about an address in any spelling. Raises Unanswerable when it is none."""
    try:
        parsed = str(Mailbox.parse(address, allow_utf8=True))
    except InvalidMailbox as invalid:
        raise Unanswerable(f"{address!r} is no mail address: {invalid}") from None
    member = config.member(parsed)
    sourced = mailboxes.find(connection, parsed)
    if member is None and sourced is not None and sourced.left_at is None:
        # A command without a worker has read the file, not the sources.
        config = config.with_members([_member(sourced)])
        member = config.member(parsed)
    if member is None:
        return Known(address=parsed, member=None, sourced=sourced, policy=None)
    return Known(address=member.address, member=member, sourced=sourced, policy=config.policy_for(member.address))


def with_sourced(connection: sa.Connection, config: Config) -> Config:
    """The configuration with the mailboxes that the sources brought, as a running worker has it."""
    return config.with_members(_members(connection))


def _members(connection: sa.Connection) -> Iterator[Member]:
    return (_member(row) for row in mailboxes.not_left(connection))


def _member(row: StoredMailbox) -> Member:
    return Member(row.address, row.principal, row.source, row.groups, row.person_name)
