# SPDX-License-Identifier: GPL-3.0-or-later
"""What a source of mailboxes is: something that reads all of its entries, or says why it cannot."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from acme_milter.mailboxes.entry import Entry, InvalidEntry, canonical_address, each_once
from acme_milter.protocol.mailbox import MAX_ADDRESS_OCTETS
from acme_milter.quoting import quoted

MOST = 500_000
"""Records that one source may list. Each takes a kilobyte or so: whoever lists more would take the worker's memory."""

MOST_REMARKS = 100

MANY = 20
"""Mailboxes of one id that are worth a remark: the id may be a department's, and then all share their keys."""


class SourceFault(Exception):
    """A source could not be read as a whole, so nothing at all is known of who came and who left.

    The text names the source, the program or file and line, what happened and what to do; it holds no secret.
    """

    safe_text = True

    def __init__(self, source: str, what: str) -> None:
        super().__init__(f"source {source}: {what}")


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything one source listed at one moment; the caller judges whether so few can be true.

    `entries` has each address once, whatever its case. `rejected` holds (address or other text, reason): the source
    did speak of these, they are not gone, but cannot be used. `remarks` are sentences for the administrator.
    """

    entries: tuple[Entry, ...]
    rejected: tuple[tuple[str, str], ...] = ()
    remarks: tuple[str, ...] = ()


class Source(Protocol):
    """One section below `sources`."""

    @property
    def name(self) -> str:
        """Its key in the configuration."""

    def read(self) -> Reading:
        """List every mailbox. Takes bounded time; raises SourceFault rather than return a part."""


@dataclass(slots=True)
class Gathering:
    """Puts a Reading together: checks each record and finds the ones that are there twice. ``source`` is its name;
    the call that would make it larger than MOST raises SourceFault.
    """

    source: str
    _entries: dict[str, Entry] = field(default_factory=dict)
    _rejected: dict[str, str] = field(default_factory=dict)
    _remarks: dict[str, None] = field(default_factory=dict)

    def add(
        self,
        address: str,
        *,
        id: str | None = None,  # noqa: A002 -- the field's name
        name: str | None = None,
        groups: Iterable[str] = (),
        aliases: Iterable[str] = (),
        place: str = "",
    ) -> None:
        """Take one record. `place` (`line 12`) is named when it has to be rejected.

        The same address for the same id again adds its groups and aliases. For two ids it is neither's: whoever
        happened to come first would get a certificate for the other's mail, so both are rejected.
        """
        try:
            entry = Entry.checked(address, id=id, name=name, groups=groups, aliases=aliases)
        except InvalidEntry as flaw:
            self.reject(_as_known(address) or place, f"{place}: {flaw}" if place else str(flaw))
            return
        folded = entry.address.lower()
        before = self._entries.get(folded)
        if before is None:
            self._count()
            self._entries[folded] = entry
        elif before.id == entry.id:
            self._entries[folded] = _merged(before, entry)
        else:
            self.reject(entry.address, f"{place + ': ' if place else ''}listed for two different ids")

    def reject(self, text: str, reason: str) -> None:
        """Note a record that cannot be used; the first reason stays. The text may be anything, and is made fit to show
        where it is not: what is no address is no known mailbox either.
        """
        text = text.strip()
        shown = text if len(text) <= MAX_ADDRESS_OCTETS and text.isprintable() else quoted(text)
        if shown not in self._rejected:
            self._count()
            self._rejected[shown] = reason

    def _count(self) -> None:
        if len(self._entries) + len(self._rejected) >= MOST:
            raise SourceFault(self.source, f"lists more than {MOST} mailboxes; the list was not used")

    def remark(self, sentence: str) -> None:
        """Note something the administrator should know; said once. What goes on for ever is not all kept."""
        if len(self._remarks) < MOST_REMARKS:
            self._remarks[sentence] = None

    def reading(self) -> Reading:
        """What was gathered; an address that was rejected once is not among the entries."""
        refused = {text.lower() for text in self._rejected}
        kept = tuple(entry for folded, entry in self._entries.items() if folded not in refused)
        for lasting, number in Counter(entry.id for entry in kept if entry.id is not None).most_common(3):
            if number > MANY:
                self.remark(
                    f"{number} mailboxes have the id {quoted(lasting)}: their keys count as one person's, and are"
                    " exported together as that person's history. Is the id really a person's?"
                )
        return Reading(kept, tuple(self._rejected.items()), tuple(self._remarks))


def _as_known(address: str) -> str:
    """The address as it would stand in an entry; what is none, as it is."""
    try:
        return canonical_address(address)
    except InvalidEntry:
        return address.strip()


def _merged(one: Entry, other: Entry) -> Entry:
    aliases = each_once([*one.aliases, *other.aliases])
    return Entry(one.address, one.id, one.name or other.name, one.groups | other.groups, aliases)
