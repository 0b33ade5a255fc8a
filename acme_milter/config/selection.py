# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of a source's mailboxes a domain wants, and the reason where it does not."""

from collections.abc import Sequence
from dataclasses import dataclass

from acme_milter.config.patterns import Pattern, built_in_match, first_match
from acme_milter.config.policy import Domain


@dataclass(frozen=True, slots=True)
class Selection:
    """A domain's `source`, `include` and `exclude`. `named` are the addresses that are written out, in lower case:
    those listed and those included; built-in patterns do not concern them.
    """

    domain: str
    sources: frozenset[str]
    include: Sequence[Pattern]
    exclude: Sequence[Pattern]
    named: frozenset[str]

    def exclusion_of(self, address: str, source: str, groups: frozenset[str]) -> str | None:
        """Why the domain does not want this mailbox of `source`, None when it does."""
        if source not in self.sources:
            return f"domains.{self.domain}.source does not name {source}"
        excluded = first_match(self.exclude, address, groups)
        if excluded is not None:
            return f"matches exclude {excluded}"
        if first_match(self.include, address, groups) is None:
            return f"matches nothing in domains.{self.domain}.mailboxes.include"
        found = None if address.lower() in self.named else built_in_match(address)
        if found is not None:
            return f"matches the built-in pattern {found[0]} ({found[1]}; include it by name to have it anyway)"
        return None


def selection_of(name: str, domain: Domain) -> Selection:
    """What a domain's part of the configuration says of its mailboxes."""
    written = domain.mailboxes
    included = (pattern.address for pattern in written.include)
    return Selection(
        name,
        frozenset(domain.source),
        written.include,
        written.exclude,
        frozenset(address.lower() for address in (*written.list, *included) if address is not None),
    )
