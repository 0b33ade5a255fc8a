# SPDX-License-Identifier: GPL-3.0-or-later
"""One look at a source: what it lists now, against what the store knows. Changes nothing."""

from collections.abc import Callable, Mapping
from datetime import datetime

import sqlalchemy as sa

from acme_milter.config.schema import Config
from acme_milter.config.sources import LIST
from acme_milter.mailboxes.aliases import with_aliases
from acme_milter.mailboxes.entry import Entry
from acme_milter.mailboxes.reading import source_of
from acme_milter.mailboxes.record import is_configured, leavers_policy
from acme_milter.mailboxes.source import Reading
from acme_milter.mailboxes.sync import Difference, Rules, difference
from acme_milter.store import mailboxes, source_runs
from acme_milter.store.mailboxes import StoredMailbox


def source_names(config: Config) -> list[str]:
    """Every source there is, the configuration's own list included."""
    return [LIST, *config.sources]


def read_source(file_config: Config, name: str, now: Callable[[], datetime]) -> Reading:
    """What the source lists now; one that is not configured any more lists nothing. Raises SourceFault.

    ``file_config`` is what the file says alone: its members are what it lists. Somebody's first and last day are days
    of this machine's place.
    """
    if name == LIST:
        return Reading(
            tuple(
                Entry(member.address, aliases=member.aliases, alias_of=member.alias_of)
                for member in file_config.members.values()
            )
        )
    section = file_config.sources.get(name)
    return Reading(()) if section is None else source_of(name, section, today=lambda: now().astimezone().date()).read()


def rules_of(config: Config, name: str) -> Rules:
    """What the configuration says of the source's mailboxes."""

    def exclusion(entry: Entry) -> str | None:
        # What is listed by name is wanted, and its domain is the one that lists it.
        return None if name == LIST else config.exclusion_of(entry.address, name, entry.groups)

    return Rules(
        exclusion=exclusion,
        configured=lambda row: is_configured(config, row),
        grace=lambda row: leavers_policy(config, row).after,
        safety=config.defaults.safety,
    )


def look(
    connection: sa.Connection | None, file_config: Config, name: str, reading: Reading, now: datetime
) -> Difference:
    """What has changed; without a connection, for a store that is not there yet, everything is new."""
    reading = with_aliases(file_config, name, reading)
    run = None if connection is None else source_runs.get(connection, name)
    known = {} if connection is None else known_of(connection, name, reading)
    first = run is None or run.succeeded_at is None
    return difference(name, reading, known, rules_of(file_config, name), now, first=first)


def known_of(connection: sa.Connection, name: str, reading: Reading) -> Mapping[str, StoredMailbox]:
    """The source's rows, and other sources' rows at the addresses that it lists, by folded address."""
    own = mailboxes.of_source(connection, name)
    others = [folded for entry in reading.entries if (folded := entry.address.lower()) not in own]
    return own | mailboxes.find_many(connection, others)
