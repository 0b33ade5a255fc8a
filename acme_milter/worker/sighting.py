# SPDX-License-Identifier: GPL-3.0-or-later
"""What a look after replies brings: where one was seen, or why nothing can be seen at all."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from acme_milter.acme.problem import printable
from acme_milter.store.departures import Departure, Followed

LONGEST_WORDS = 300


class Unfollowable(Exception):
    """Nothing can be known of any reply this way; the text says why, and what would change that."""

    safe_text = True


@dataclass(frozen=True, slots=True)
class Sighting:
    """What became of a reply, and the other side's words, or Postfix's, where there are any."""

    departure: Departure
    words: str | None = None
    age: timedelta | None = field(default=None, compare=False)
    """How long Postfix had had it then; None: it was seen just now."""

    def at(self, reply: Followed, now: datetime) -> datetime:
        """When that was so: of a log, what was read long ago or again is no news."""
        return now if self.age is None else min(now, reply.sent_at + self.age)

    @property
    def is_final(self) -> bool:
        return self.departure is not Departure.DEFERRED


class Follower(Protocol):
    """One way to look after replies. ``pace``: seconds between two looks, at least."""

    pace: float

    def look(self, replies: Sequence[Followed], now: datetime) -> dict[str, Sighting]:
        """What is known by now, by the replies' ids; one that is not in it is still on its way.

        One look is for all of them together. Raises Unfollowable.
        """


def shown(text: str) -> str:
    """Another side's words, fit for a line."""
    return printable(text.strip(), LONGEST_WORDS)
