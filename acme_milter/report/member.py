# SPDX-License-Identifier: GPL-3.0-or-later
"""Who an address belongs to: what the configuration says, and what a source has said of it."""

from dataclasses import dataclass

import sqlalchemy as sa

from acme_milter.config.member import Member
from acme_milter.config.schema import Config, Policy
from acme_milter.mailboxes.record import managed, member_of, members
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

    def is_theirs(self, principal: str) -> bool:
        """Whether what belongs to ``principal`` is the mailbox's present person's.

        While nobody was known by name, the address stood for whoever has the mailbox.
        """
        return self.member is None or principal in {self.member.principal, self.address}

    @property
    def domain(self) -> str:
        return self.address.rpartition("@")[2]


def look_up(connection: sa.Connection, config: Config, address: str) -> Known:
    """Everything about an address in any spelling. Raises Unanswerable when it is none."""
    try:
        parsed = str(Mailbox.parse(address, allow_utf8=True))
    except InvalidMailbox as invalid:
        raise Unanswerable(f"{address!r} is no mail address: {invalid}") from None
    sourced = mailboxes.find(connection, parsed)
    if sourced is not None:
        # A command without a worker has read the file, not the sources.
        config = _knowing(config, sourced)
    member = config.member(parsed)
    if member is None:
        return Known(address=parsed, member=None, sourced=sourced, policy=None)
    return Known(address=member.address, member=member, sourced=sourced, policy=config.policy_for(member.address))


def _knowing(config: Config, row: StoredMailbox) -> Config:
    if config.members.get(row.folded) == member_of(row):
        return config
    return config.with_members(managed(config, [row]))


def with_sourced(connection: sa.Connection, config: Config) -> Config:
    """The configuration with the mailboxes that the sources brought, as a running worker has it."""
    return config.with_members(members(connection, config))
