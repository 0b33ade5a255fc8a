# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether Postfix would take mail for an address: asked before an order, whatever source the address is from.

An order for a mailbox that does not exist costs the authority's patience and ours: its challenge mail never comes. The
question is answered as smtpd(8) does when it rejects unlisted recipients: which class of domain is it, and do the
tables of that class, or one that rewrites recipients, know the address or have a catch-all for its domain?
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from acme_milter.config.sources import PostfixSource, SourceCommon
from acme_milter.mailboxes.domain_classes import CLASSES, DomainClasses
from acme_milter.mailboxes.postfix import Postfix, PostfixAbsent, PostfixFault, TableRound, split_list

UNKNOWN_MAILBOX = "Postfix knows no such mailbox"

_REWRITING = ("recipient_canonical_maps", "canonical_maps", "virtual_alias_maps")
"""Whatever these know is taken in every class (postconf(5), smtpd_reject_unlisted_recipient)."""

_PARAMETERS = ("recipient_delimiter", *_REWRITING, *CLASSES, *CLASSES.values())
_WHOLE_KEYS_ONLY = ("pcre:", "regexp:", "tcp:", "cidr:")
"""Types that are asked for the whole address only, never for its parts (virtual(5), "REGULAR EXPRESSION TABLES")."""


class Deliverability(StrEnum):
    """What Postfix says of an address, the strongest answer first."""

    KNOWN = "known"
    UNDECIDED = "undecided"
    """A table could not be asked; the next attempt may be luckier."""
    UNKNOWN = "unknown"
    UNCHECKED = "unchecked"
    """Nobody here could know: no Postfix, not its domain, or one whose recipients it does not list."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer and, unless the address is known, its reason for people, with the command to ask again."""

    deliverability: Deliverability
    why: str = ""

    @property
    def deliverable(self) -> bool | None:
        """None where that is not decided, now or ever."""
        return {Deliverability.KNOWN: True, Deliverability.UNKNOWN: False}.get(self.deliverability)


@dataclass(frozen=True, slots=True)
class Verifier:
    """Asks the Postfix of `config_directory`, or the machine's own; `tables` (TYPE:PATH) are asked besides.

    `timeout` is for each program, in seconds. A question costs one postconf, and one postmap for each table, however
    many addresses it is about.
    """

    config_directory: Path | None = None
    tables: tuple[str, ...] = ()
    timeout: float = 10.0

    def verify(self, addresses: Iterable[str]) -> dict[str, bool | None]:
        """True, False, or None where it could not be decided; `examine` says why."""
        return {address: verdict.deliverable for address, verdict in self.examine(addresses).items()}

    def examine(self, addresses: Iterable[str]) -> dict[str, Verdict]:
        """A verdict for each address; whatever Postfix does is one, not an exception."""
        asked = list(dict.fromkeys(addresses))
        postfix = Postfix(self.config_directory, self.timeout)
        try:
            values = {name: split_list(value) for name, value in postfix.parameters(*_PARAMETERS).items()}
        except PostfixAbsent as absence:
            is_named = self.config_directory is not None or bool(self.tables)
            kind = Deliverability.UNDECIDED if is_named else Deliverability.UNCHECKED
            return dict.fromkeys(asked, Verdict(kind, str(absence)))
        except PostfixFault as fault:
            return dict.fromkeys(asked, Verdict(Deliverability.UNDECIDED, str(fault)))
        return _Examination(TableRound(postfix), values, self.tables, asked).verdicts()


class _Examination:
    """One round of questions to one Postfix about many addresses."""

    def __init__(
        self, tables: TableRound, values: Mapping[str, list[str]], named: Sequence[str], addresses: list[str]
    ) -> None:
        self._tables = tables
        self._values = values
        self._named = named
        self._addresses = addresses
        self._delimiters = "".join(values.get("recipient_delimiter", ()))
        self._classes = DomainClasses(tables, values, {_domain(address) for address in addresses})

    def verdicts(self) -> dict[str, Verdict]:
        wanted: dict[str, set[str]] = defaultdict(set)
        for address in self._addresses:
            for table in self._tables_for(_domain(address)):
                wanted[table].update(self._keys(address, table))
        for table, keys in wanted.items():
            self._tables.ask(table, keys)
        return {address: self._verdict(address) for address in self._addresses}

    def _verdict(self, address: str) -> Verdict:
        domain = _domain(address)
        tables = self._tables_for(domain)
        if any(self._tables.knows(table, key) for table in tables for key in self._keys(address, table)):
            return Verdict(Deliverability.KNOWN)
        fault = self._classes.fault(domain) or next(filter(None, map(self._tables.fault, tables)), None)
        if fault is not None:
            return Verdict(Deliverability.UNDECIDED, fault)
        kind = self._classes.of(domain)
        if kind is None:
            return Verdict(Deliverability.UNCHECKED, f"the Postfix here receives no mail for {domain}")
        parameter = CLASSES[kind]
        decisive = self._values.get(parameter, [])
        if not decisive:
            return Verdict(Deliverability.UNCHECKED, f"{parameter} is empty, so Postfix takes mail for any name")
        asked = self._tables.postfix.question(address, decisive[0])
        return Verdict(Deliverability.UNKNOWN, f"{UNKNOWN_MAILBOX}: nothing is found by {asked}")

    def _tables_for(self, domain: str) -> list[str]:
        kind = self._classes.of(domain)
        own = [] if kind is None else [*_REWRITING, CLASSES[kind]]
        return [*self._named, *(table for parameter in own for table in self._values.get(parameter, ()))]

    def _keys(self, address: str, table: str) -> list[str]:
        """What smtpd(8) looks up: the address, it without its extension, and the catch-all of its domain."""
        whole = address.lower()
        if any(kind in table for kind in _WHOLE_KEYS_ONLY):
            return [whole]
        local, _, domain = whole.rpartition("@")
        cut = next((local.index(char) for char in self._delimiters if char in local[1:]), None)
        names = [local] if cut is None else [local, local[:cut]]
        keys = [*(f"{name}@{domain}" for name in names), f"@{domain}"]
        return keys + names if self._classes.of(domain) == "mydestination" else keys


def verifiers_of(sources: Mapping[str, SourceCommon]) -> list[Verifier]:
    """Whom to ask: the Postfix of each source of that type; where there is none, the machine's own."""
    sections = [section for section in sources.values() if isinstance(section, PostfixSource)]
    named = (Verifier(section.config_directory, tuple(section.tables)) for section in sections)
    return list(dict.fromkeys(named)) or [Verifier()]


def examine_with(verifiers: Sequence[Verifier], addresses: Iterable[str]) -> dict[str, Verdict]:
    """One verdict for each address: one Postfix that knows it is enough, and one that is silent leaves it open."""
    asked = list(addresses)
    rank = list(Deliverability)
    rounds = [verifier.examine(asked) for verifier in verifiers]
    return {address: min((r[address] for r in rounds), key=lambda v: rank.index(v.deliverability)) for address in asked}


def _domain(address: str) -> str:
    return address.lower().rpartition("@")[2]
