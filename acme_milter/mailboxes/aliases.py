# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of the aliases that a source knows: kept with their mailbox, mailboxes like it, or nothing. Pure."""

import dataclasses

from acme_milter.config.member import Member
from acme_milter.config.policy import Aliases
from acme_milter.config.schema import Config
from acme_milter.config.sources import LIST
from acme_milter.mailboxes.entry import Entry
from acme_milter.mailboxes.source import Reading


def with_aliases(config: Config, source: str, reading: Reading) -> Reading:
    """The reading as `certificate.aliases` wants it: without the aliases of those that want none of them, and with an
    entry for each that is to have a certificate of its own.

    An alias that is a mailbox by the same source's word is that. One of two mailboxes is neither's: whoever happened to
    come first would get a certificate for the other's mail.
    """
    if source == LIST or not any(entry.aliases for entry in reading.entries):
        return reading  # the list's own aliases are checked and told apart when the configuration is read
    entries: list[Entry] = []
    claims: dict[str, list[tuple[str, Entry, Aliases]]] = {}
    for entry in reading.entries:
        wanted = _wanted(config, source, entry) if entry.aliases else "none"
        entries.append(dataclasses.replace(entry, aliases=()) if wanted == "none" else entry)
        for alias in entry.aliases if wanted != "none" else ():
            claims.setdefault(alias.lower(), []).append((alias, entry, wanted))
    rejected = dict(reading.rejected)
    spoken = {entry.address.lower() for entry in entries} | {text.lower() for text in rejected}
    for folded, claimed in claims.items():
        alias, entry, wanted = claimed[0]
        owners = sorted({owner.address for _, owner, _ in claimed})
        if folded in spoken or all(wanted != "own_certificate" for _, _, wanted in claimed):
            continue
        if len(owners) > 1:
            rejected[alias] = f"is an alias of {' and '.join(owners)}"
        else:
            entries.append(Entry(alias, entry.id, entry.name, entry.groups, alias_of=entry.address))
    return dataclasses.replace(reading, entries=tuple(entries), rejected=tuple(rejected.items()))


def replies_for(config: Config, address: str, authority: str) -> int:
    """How many replies an order of the mailbox takes, at most: one for each address that is in it."""
    member = config.member(address)
    return 1 if member is None else replies_of(config, member, authority)


def replies_of(config: Config, member: Member, authority: str) -> int:
    """As `replies_for`, of a mailbox that the configuration need not know: the sources' may not have been read."""
    layers, asked = config.layers.get(member.domain), config.authorities.get(authority)
    if layers is None or asked is None or layers.policy_of(member).certificate.aliases != "same_certificate":
        return 1
    return min(1 + len(config.aliases_of(member).kept), asked.limits.identifiers)


def _wanted(config: Config, source: str, entry: Entry) -> Aliases:
    if config.exclusion_of(entry.address, source, entry.groups) is not None:
        return "none"
    member = Member(entry.address, entry.address, source, entry.groups)
    return config.layers[member.domain].policy_of(member).certificate.aliases
