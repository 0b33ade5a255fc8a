# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a number of orders takes an authority, and on what that estimate rests. Pure arithmetic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from statistics import median

from acme_milter.config.schema import AuthorityLimits

HOUR = timedelta(hours=1)
UNMEASURED = timedelta(seconds=60)
"""What an order is taken to need while nothing is known: a good day at a public authority."""

SAMPLE = 50
"""Enrollments that the typical time is the median of, the newest ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """An authority's limits, and what one order needs from its begin to the active certificate.

    ``measured``: how many finished enrollments ``typical`` is the median of; 0 when it is assumed.
    """

    in_flight: int
    orders_per_hour: int | None = None
    mails_per_hour: int | None = None
    typical: timedelta = UNMEASURED
    measured: int = 0

    @property
    def rests_on(self) -> str:
        """The typical time and where it comes from, in words."""
        if not self.measured:
            return f"{_seconds(self.typical)} an order (assumed: no order was finished yet)"
        return f"{_seconds(self.typical)} an order (median of the last {self.measured})"


@dataclass(frozen=True, slots=True)
class Load:
    """What an authority is to do: orders, of which each gives one certificate, and their challenge mails, one for each
    address of an order, which are answered by as many replies.
    """

    orders: int = 0
    mails: int = 0

    def __add__(self, other: "Load") -> "Load":
        return Load(self.orders + other.orders, self.mails + other.mails)


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long, and the limit that it is due to."""

    takes: timedelta
    bound_by: str


@dataclass(frozen=True, slots=True)
class Needed:
    """The limits that would do it in time."""

    within: timedelta
    in_flight: int
    orders_per_hour: int
    mails_per_hour: int


def pace_of(limits: AuthorityLimits, finished: Sequence[timedelta]) -> Pace:
    """From the configured limits and what the last enrollments took."""
    return Pace(
        in_flight=limits.in_flight,
        orders_per_hour=limits.orders_per_hour,
        mails_per_hour=limits.mails_per_hour,
        typical=timedelta(seconds=median(time.total_seconds() for time in finished)) if finished else UNMEASURED,
        measured=len(finished),
    )


def estimate(load: Load, pace: Pace) -> Estimate:
    """How long it takes: the slowest of the limits decides."""
    bounds = [
        (
            math.ceil(load.orders / pace.in_flight) * pace.typical,
            f"in_flight {pace.in_flight}, {pace.rests_on}",
        )
    ]
    for number, limit, name in (
        (load.orders, pace.orders_per_hour, "orders_per_hour"),
        (load.mails, pace.mails_per_hour, "mails_per_hour"),
    ):
        if limit is not None:
            bounds.append((number * HOUR / limit, f"{name} {limit}"))
    takes, bound_by = max(bounds)
    return Estimate(takes, bound_by)


def done_after(passed: timedelta, load: Load, pace: Pace) -> int:
    """How many of the orders are done ``passed`` after the first one began."""
    takes = estimate(load, pace).takes
    return load.orders if passed >= takes else math.floor(load.orders * (passed / takes))


def needed(load: Load, pace: Pace, within: timedelta) -> Needed:
    """The least limits by which all is done ``within`` that time."""
    rounds = max(math.floor(within / pace.typical), 1)  # orders that one place can do one after the other
    hours = within / HOUR
    return Needed(
        within,
        in_flight=math.ceil(load.orders / rounds),
        orders_per_hour=math.ceil(load.orders / hours),
        mails_per_hour=math.ceil(load.mails / hours),
    )


def in_words(time: timedelta) -> str:
    """A duration for people: two units at most, rounded up."""
    minutes = math.ceil(time.total_seconds() / 60)
    if time <= timedelta(0):
        return "no time"
    if minutes <= 1:
        return "under a minute" if time < timedelta(minutes=1) else "1 min"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min".removesuffix(" 00 min")
    hours = math.ceil(minutes / 60)
    return f"{hours // 24} d {hours % 24} h".removesuffix(" 0 h")


def _seconds(time: timedelta) -> str:
    return f"{time.total_seconds():.3g} s"
