# SPDX-License-Identifier: GPL-3.0-or-later
"""When a certificate is renewed: early enough, as late as planned, and never with a crowd.

Without a word from the authority (RFC 9773) a renewal falls on the latest day that is not fuller than a level load
would make it. So what was issued in one week spreads over months, and a site without load renews as late as planned.
"""

import enum
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

FULL = 1.25
"""A day takes renewals up to so many times a level load; what comes later looks for an earlier day."""

NEAR_THE_END = timedelta(days=14)
TRY_AGAIN = timedelta(days=3)
LEAST_PACE = 12
STORM_SHARE = 0.05
STORM_LEAST = 20
CALLED_AT_ONCE = timedelta(days=2)
"""A window that is over this soon, long before our own plan, is an authority's call and not its habit."""

_GOLDEN = (math.sqrt(5) - 1) / 2


class Obstacle(enum.StrEnum):
    """Why a renewal that is due is not opened; the text is for people."""

    NOT_MANAGED = "the mailbox is not managed any more"
    MISSING = "its source does not list the mailbox at present"
    OBSERVED = "mode: observe orders nothing"
    NO_AUTHORITY = "its policy names no authority that is configured"
    OTHER_PERSON = "the mailbox belongs to somebody else now"


@dataclass(frozen=True, slots=True)
class Span:
    """Between ``earliest`` and ``latest`` a renewal is planned; from ``urgent`` on it waits for nobody.

    ``interval`` is from the certificate's begin to ``latest``: how often it is renewed on a site without load.
    """

    earliest: datetime
    latest: datetime
    urgent: datetime
    interval: timedelta


def day_of(moment: datetime) -> int:
    """The day in UTC, counted from 1970."""
    return (moment - _EPOCH) // DAY


def begin_of(day: int) -> datetime:
    """The first moment of a day that `day_of` counted."""
    return _EPOCH + day * DAY


def span_of(not_before: datetime, not_after: datetime, at: float, spread: timedelta | None) -> Span:
    """The span of a certificate's planned renewal.

    ``at``: share of the lifetime at which it is due at the latest. ``spread``: by how much it may be earlier, None for
    a third of the lifetime. Whatever they are, not in the first tenth (each renewal would be due as it arrives), and
    not once it is urgent (there would be no time to fail).
    """
    lifetime = max(not_after - not_before, timedelta(0))
    urgent = not_after - min(lifetime / 10, NEAR_THE_END)
    soonest = not_before + lifetime / 10
    latest = min(max(not_before + at * lifetime, soonest), urgent)
    wanted = latest - (lifetime / 3 if spread is None else spread)
    return Span(min(max(wanted, soonest), latest), latest, urgent, latest - not_before)


def not_sooner_than(got_at: datetime, not_after: datetime) -> datetime:
    """Until when a certificate that has just come is kept, whatever it says of itself and whoever calls.

    One that is dated back, or an authority that calls for every one, would have us order for ever.
    """
    return got_at + min(DAY, max(not_after - got_at, timedelta(0)) / 3)


def try_again_after(lifetime: timedelta) -> timedelta:
    """Pause after a renewal that came to nothing: with the default plan it can fail twice before the end is near."""
    return min(TRY_AGAIN, lifetime / 10)


def level_load(active: int, interval: timedelta) -> float:
    """Renewals a day when ``active`` certificates that are renewed every ``interval`` are spread evenly."""
    return active / max(interval / DAY, 1.0)


def planned_moment(span: Span, planned: Mapping[int, int], active: int, token: str, now: datetime) -> datetime:
    """When to renew: never after ``span.latest``, unless that has passed already.

    ``planned`` counts the authority's renewals by day, this one left out; ``active`` are all of them, this one
    included. ``token``, the certificate's id, decides what is otherwise arbitrary.
    """
    earliest = max(span.earliest, now)
    if earliest >= span.latest:
        return max(span.latest, now)
    first, last = day_of(earliest + DAY - timedelta(microseconds=1)), day_of(span.latest) - 1
    if first > last:  # not a whole day to choose from: a short lifetime, or no spread
        return earliest + (span.latest - earliest) * _fraction(token)
    day = _choose_day(first, last, planned, level_load(active, span.interval))
    # Multiples of the golden ratio, each in the largest gap that the ones before it left.
    place = (planned.get(day, 0) * _GOLDEN + _fraction(token) / 24) % 1.0
    return begin_of(day) + place * DAY


def _choose_day(first: int, last: int, planned: Mapping[int, int], level: float) -> int:
    room = max(1.0, FULL * level)
    days = range(last, first - 1, -1)
    fitting = next((day for day in days if planned.get(day, 0) + 1 <= room), None)
    return min(days, key=lambda day: planned.get(day, 0)) if fitting is None else fitting


def moment_in_window(start: datetime, end: datetime, token: str, now: datetime) -> datetime:
    """RFC 9773 §4.2: a uniform random moment of the window, always the same one; ``now`` when it has passed."""
    return max(start + (end - start) * _fraction(token), now)


def was_advanced(
    window: tuple[datetime, datetime], before: tuple[datetime, datetime] | None, span: Span, now: datetime
) -> bool:
    """Whether the authority calls for a renewal earlier than it used to, or than anybody had planned."""
    start, end = window
    if before is not None:
        return end < before[1] and start < span.earliest
    return end <= now + CALLED_AT_ONCE and end < span.earliest


def mean_per_hour(active: int, intervals: Sequence[timedelta]) -> float:
    """Renewals an hour that ``active`` certificates need in the long run; ``intervals`` is a sample of theirs."""
    known = [interval for interval in intervals if interval > timedelta(0)]
    return active * math.fsum(_HOUR / interval for interval in known) / len(known) if known else 0.0


def background_pace(configured: int | str, mean: float) -> int:
    """How many renewals and joiners may be opened in any sixty minutes; "auto" is twice the mean, at least 12."""
    return max(LEAST_PACE, math.ceil(2 * mean)) if isinstance(configured, str) else configured


def storm_threshold(active: int, expected: float) -> int:
    """F-33: so many renewals may fall due at once when ``expected`` were forecast for the time that has passed."""
    return math.floor(STORM_SHARE * active + STORM_LEAST + expected)


def obstacle(
    *, managed: bool, missing: bool, observed: bool, has_authority: bool, same_person: bool
) -> Obstacle | None:
    """Why this certificate is not renewed although it is due; None when nothing is in the way."""
    if not managed:
        return Obstacle.NOT_MANAGED
    if missing:
        return Obstacle.MISSING
    if observed:
        return Obstacle.OBSERVED
    if not has_authority:
        return Obstacle.NO_AUTHORITY
    return None if same_person else Obstacle.OTHER_PERSON


def _fraction(token: str) -> float:
    """A number in [0, 1) that looks random and is always the same."""
    return int.from_bytes(hashlib.sha256(token.encode()).digest()[:6]) / 2**48
