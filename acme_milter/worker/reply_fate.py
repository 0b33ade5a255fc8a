# SPDX-License-Identifier: GPL-3.0-or-later
"""What the fate of its replies means for an order: go on, wait, or give it up. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from acme_milter.enrollment.model import Enrollment
from acme_milter.store.departures import Departure
from acme_milter.store.outbox import OutboxEntry

PATIENCE = timedelta(seconds=60)
"""So long a reply is looked for by whoever follows it; then its departure counts as unknown."""

NOBODY_LOOKS = PATIENCE + timedelta(seconds=15)
"""So long an order waits to be told; then nobody follows its reply, as when its host is down."""

SILENCE = timedelta(hours=2)
"""So long after it was last seen a reply that is late is late; then its departure counts as unknown, as when its log is
gone or nobody follows it any more. Postfix tries again every 4000 seconds at least (maximal_backoff_time)."""


class Bounced(Exception):
    """No reply of the order will ever arrive; the text is what was said of the last one."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Until when, or None while nobody can say; and what for, where something is in the way."""

    until: datetime | None
    why: str | None = None


def is_at_hand(enrollment: Enrollment, entry: OutboxEntry) -> bool:
    """Whether a reply is for the address that is being proven, of an order for several."""
    return not enrollment.aliases or entry.envelope_sender.lower() == enrollment.at_hand.lower()


def fate_of(entries: Sequence[OutboxEntry], now: datetime) -> Wait | None:
    """None when the authority may be told that the reply is there. Raises Bounced.

    A second reply of the same order, to a challenge that may have been the true one, is waited for as well.
    """
    handed = [entry for entry in entries if entry.sent_at is not None]
    if handed and all(entry.departure == Departure.BOUNCED for entry in handed):
        raise Bounced(handed[-1].departure_words or "Postfix gave it up")
    for entry in handed:
        if entry.departure == Departure.DEFERRED and entry.followed_since is not None:
            if now - (entry.departure_at or entry.followed_since) > SILENCE:
                continue
            return Wait(None, f"the reply waits in Postfix's queue: {entry.departure_words or 'no reason is given'}")
    patience = [
        entry.followed_since + NOBODY_LOOKS
        for entry in handed
        if entry.departure is None and entry.followed_since is not None
    ]
    return Wait(max(patience)) if patience and max(patience) > now else None
