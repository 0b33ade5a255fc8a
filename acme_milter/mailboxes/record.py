# SPDX-License-Identifier: GPL-3.0-or-later
"""What the store's rows of mailboxes mean: how one came, who is managed, and which policy it leaves by."""

import enum
from collections.abc import Iterable

import sqlalchemy as sa

from acme_milter.config.member import Member
from acme_milter.config.policy import LeaversPolicy
from acme_milter.config.schema import Config
from acme_milter.config.sources import LIST
from acme_milter.store import mailboxes
from acme_milter.store.mailboxes import StoredMailbox


class CameAs(enum.StrEnum):
    """Why a mailbox is known."""

    IMPORT = "import"  # its source was read for the first time; a person orders for those that were there
    JOINER = "joiner"  # it came later: policy.joiners says whether it gets its certificate by itself
    WAITING = "waiting"  # it came later with too many others; a joiner once the hold new:SOURCE is released


ONCE_ASKED_FOR = (CameAs.IMPORT,)
"""Nothing is ordered for these by itself, but for what somebody asked for and could not even be tried."""


def member_of(row: StoredMailbox) -> Member:
    return Member(
        address=row.address,
        principal=row.principal,
        source=row.source,
        groups=row.groups,
        person_name=row.person_name,
        aliases=row.aliases,
        alias_of=row.alias_of,
    )


def is_wanted(config: Config, row: StoredMailbox) -> bool:
    """Whether its domain is configured, still names its source, and does not exclude it."""
    if row.source == LIST:
        return row.domain in config.policies
    return config.exclusion_of(row.address, row.source, row.groups) is None


def is_configured(config: Config, row: StoredMailbox) -> bool:
    """Whether its domain is configured and still names its source."""
    if row.domain not in config.policies:
        return False
    return row.source == LIST or (row.source in config.sources and row.source in config.domains[row.domain].source)


def managed(config: Config, rows: Iterable[StoredMailbox]) -> list[Member]:
    """Those of ``rows`` that are managed: they have not left, and the configuration wants them."""
    return [member_of(row) for row in rows if row.left_at is None and is_wanted(config, row)]


def members(connection: sa.Connection, config: Config) -> list[Member]:
    """Every mailbox that the store knows and the configuration wants; what ``Config.with_members`` takes."""
    return managed(config, mailboxes.not_left(connection))


def leavers_policy(config: Config, row: StoredMailbox) -> LeaversPolicy:
    """What becomes of its certificates when it leaves; the defaults' for a domain that is not configured any more."""
    layers = config.layers.get(row.domain)
    return config.defaults.leavers if layers is None else layers.policy_of(member_of(row)).leavers
