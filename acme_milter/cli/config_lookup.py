# SPDX-License-Identifier: GPL-3.0-or-later
"""Who an address is, for `config explain`: quick even on a store of 100 000 mailboxes."""

import json
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from acme_milter.config.member import Member
from acme_milter.protocol.mailbox import InvalidMailbox, Mailbox

if TYPE_CHECKING:
    from acme_milter.config.schema import Config, Domain

_SQLITE = "sqlite:///"
_QUERY = "SELECT address, principal, source, groups, person_name FROM mailbox WHERE folded = ? AND left_at IS NULL"


@dataclass(frozen=True, slots=True)
class Subject:
    """``member`` is what the address is or would be, None when its domain is not configured. ``reason`` is why it is
    not managed, None when it is.
    """

    member: Member | None
    reason: str | None


def look_up(context: click.Context, config: "Config", address: str) -> Subject:
    """Everything that is known of an address, in any spelling of it."""
    listed = config.member(address)
    if listed is not None:
        return Subject(listed, None)
    try:
        parsed = str(Mailbox.parse(address, allow_utf8=True))
    except InvalidMailbox as invalid:
        return Subject(None, f"is no mail address: {invalid}")
    domain = config.domains.get(parsed.rpartition("@")[2])
    if domain is None:
        return Subject(None, config.exclusion_of(parsed, "", frozenset()))
    excluded = _excluded_whoever_it_is(config, parsed, domain)
    if excluded is not None:
        return Subject(Member(parsed, parsed), excluded)
    try:
        found = _from_sources(context, config, parsed) if domain.source else None
    except click.exceptions.Exit:  # it has said why; what the configuration says is true without it
        return Subject(Member(parsed, parsed), "neither the worker nor the store can say who it is")
    if found is not None:
        return Subject(found, config.exclusion_of(found.address, found.source, found.groups))
    return Subject(Member(parsed, parsed), _unknown(domain.source))


def _excluded_whoever_it_is(config: "Config", address: str, domain: "Domain") -> str | None:
    """Why the domain does not want this address from any of its sources, when that needs no look at its groups."""
    if any(pattern.group is not None for pattern in domain.mailboxes.include):
        return None
    reasons = [config.exclusion_of(address, source, frozenset()) for source in domain.source]
    return reasons[0] if reasons and None not in reasons else None


def _unknown(sources: tuple[str, ...]) -> str:
    if sources:
        return f"it is not listed, and {' and '.join(sources)} did not name it when last read"
    return "it is not listed in its domain's mailboxes, and the domain names no source"


def _from_sources(context: click.Context, config: "Config", address: str) -> Member | None:
    if config.store.url.startswith(_SQLITE):
        try:
            return _from_sqlite(config.store.url.removeprefix(_SQLITE), address)
        except sqlite3.Error:
            return None if _is_missing(config.store.url) else _from_view(context, config, address)
    return _from_view(context, config, address)


def _is_missing(url: str) -> bool:
    from pathlib import Path

    return not Path(url.removeprefix(_SQLITE)).exists()


def _from_sqlite(path: str, address: str) -> Member | None:
    """Read as other programs may, without the libraries that take longer to load than the answer to find."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        row = connection.execute(_QUERY, (address.lower(),)).fetchone()
    finally:
        connection.close()
    if row is None:
        return None
    return Member(row[0], row[1], row[2], frozenset(json.loads(row[3])), row[4])


def _from_view(context: click.Context, config: "Config", address: str) -> Member | None:
    from acme_milter.cli.view import ask_view

    document: Any = ask_view(context, config, "member", address=address)
    found = document["member"]
    if found is None:
        return None
    return Member(
        found["address"], found["principal"], found["source"], frozenset(found["groups"]), found["person_name"]
    )
