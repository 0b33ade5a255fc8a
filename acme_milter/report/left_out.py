# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailboxes that were asked for and get nothing, counted by reason."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

EXAMPLES = 10
"""Mailboxes that are named for each reason why some are left out."""


@dataclass(frozen=True, slots=True)
class Excluded:
    """Mailboxes (or serials) that were asked for and are left out for one reason; ``examples`` are the first few."""

    reason: str
    number: int
    examples: tuple[str, ...]


@dataclass
class Reasons:
    """Gathers them."""

    found: dict[str, list[str]] = field(default_factory=dict)
    numbers: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str, name: str) -> None:
        """One more."""
        self.add_many(reason, 1, (name,))

    def add_many(self, reason: str, number: int, examples: Sequence[str]) -> None:
        """So many more, of which some are named."""
        self.numbers[reason] += number
        named = self.found.setdefault(reason, [])
        named += examples[: EXAMPLES - len(named)]

    def sorted(self) -> tuple[Excluded, ...]:
        """The reason that concerns most comes first."""
        order = sorted(self.numbers.items(), key=lambda each: (-each[1], each[0]))
        return tuple(Excluded(reason, number, tuple(sorted(self.found[reason]))) for reason, number in order)
