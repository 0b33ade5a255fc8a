# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose a mailbox is, and whose policy something was delivered by: as its person has it, or had it before it left."""

import sqlalchemy as sa

from acme_milter.config.member import Member
from acme_milter.config.schema import Config
from acme_milter.mailboxes.record import member_of
from acme_milter.store import mailboxes


def holder_of(connection: sa.Connection, config: Config, address: str, principal: str) -> Member | None:
    """The mailbox with this person's groups, managed or left; None where it is another person's, or nobody knows."""
    row = mailboxes.find(connection, address)
    if row is not None and row.principal == principal:
        return member_of(row)
    member = config.member(address)
    return member if member is not None and member.principal == principal else None


def present_principal(connection: sa.Connection, config: Config, address: str) -> str | None:
    """Whose the mailbox is now; None when it has left, or was never known. What the store says counts before the
    configuration: another worker may have read the sources later.
    """
    row = mailboxes.find(connection, address)
    if row is not None:
        return row.principal if row.left_at is None else None
    member = config.member(address)
    return None if member is None else member.principal
