# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of Postfix's classes a domain is in, and so whose list of recipients counts (ADDRESS_CLASS_README)."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from acme_milter.mailboxes.postfix import TableRound, is_table, split_list

CLASSES: Mapping[str, str] = {
    "mydestination": "local_recipient_maps",
    "virtual_alias_domains": "virtual_alias_maps",
    "virtual_mailbox_domains": "virtual_mailbox_maps",
    "relay_domains": "relay_recipient_maps",
}
"""The parameter with a class's domains, in Postfix's order, and the one with its recipients."""

_WITH_SUBDOMAINS = "relay_domains"  # by the default of parent_domain_matches_subdomains


class DomainClasses:
    """Looks up all domains at once, when it is made; a domain that no class has is not Postfix's to deliver."""

    def __init__(self, tables: TableRound, values: Mapping[str, list[str]], domains: Iterable[str]) -> None:
        self._tables = tables
        self._file_faults: dict[str, str] = {}
        asked = set(domains)
        lists = {kind: list(self._patterns(values.get(kind, []))) for kind in CLASSES}
        for kind, patterns in lists.items():
            keys = {key for domain in asked for key in _names(domain, kind)}
            for pattern in patterns:
                if is_table(pattern.removeprefix("!")):
                    tables.ask(pattern.removeprefix("!"), keys)
        self._kinds: dict[str, str | None] = {}
        self._faults: dict[str, str] = {}
        for domain in asked:
            self._decide(domain, lists)

    def of(self, domain: str) -> str | None:
        """The key in CLASSES; None when it is in none, or when that could not be found out."""
        return self._kinds[domain]

    def fault(self, domain: str) -> str | None:
        """Why the class could not be found out."""
        return self._faults.get(domain)

    def _decide(self, domain: str, lists: Mapping[str, list[str]]) -> None:
        self._kinds[domain] = None
        for kind, patterns in lists.items():
            for pattern in patterns:
                wanted = pattern.removeprefix("!")
                fault = self._file_faults.get(wanted) or self._tables.fault(wanted)
                if fault is not None:
                    self._faults[domain] = fault
                    return
                if any(self._matches(wanted, name) for name in _names(domain, kind)):
                    if wanted == pattern:
                        self._kinds[domain] = kind
                        return
                    break  # !pattern: the list is decided, and this domain is not on it

    def _matches(self, pattern: str, name: str) -> bool:
        return self._tables.knows(pattern, name) if is_table(pattern) else pattern.lower().lstrip(".") == name

    def _patterns(self, items: Iterable[str]) -> Iterator[str]:
        """The items of a list, with those of the files it names in their places."""
        for item in items:
            negated, path = item[: item.startswith("!")], item.removeprefix("!")
            if not path.startswith("/"):
                yield item
                continue
            try:
                lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
            except OSError as error:
                self._file_faults[path] = f"{path}: {error.strerror}"
                yield item
                continue
            for line in lines:
                yield from (f"{negated}{word}" for word in split_list(line.partition("#")[0]))


def _names(domain: str, kind: str) -> list[str]:
    """The domain and, where subdomains are meant too, those above it."""
    labels = domain.split(".")
    return [".".join(labels[at:]) for at in range(len(labels) if kind == _WITH_SUBDOMAINS else 1)]
