# SPDX-License-Identifier: GPL-3.0-or-later
"""The forecast: how many renewals an hour each authority's certificates will need, and the pace that follows."""

from collections.abc import Callable
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.config.schema import Config, Policy
from acme_milter.enrollment.renewal import Span, background_pace, mean_per_hour, span_of
from acme_milter.store import renewals

HOLDS_FOR = timedelta(hours=1)
SAMPLE = 64
"""Certificates from whose lifetimes the rest is concluded."""


def policy_of(config: Config, address: str) -> Policy:
    """The mailbox's policy; for one that is not managed any more, what holds everywhere."""
    return config.policy_for(address) or config.defaults


def span_by(policy: Policy, not_before: datetime, not_after: datetime) -> Span:
    """The span of a planned renewal, by policy."""
    spread = policy.renewal.spread
    return span_of(not_before, not_after, policy.renewal.at, None if isinstance(spread, str) else spread)


class Forecast:
    """Looks once an hour; any number of threads may ask."""

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config
        self._known: dict[str, tuple[datetime, float]] = {}

    def mean(self, connection: sa.Connection, authority: str, now: datetime) -> float:
        """Renewals an hour, in the long run."""
        since, mean = self._known.get(authority, (now, 0.0))
        if authority in self._known and since <= now < since + HOLDS_FOR:
            return mean
        config = self._config()
        intervals = [
            span_by(policy_of(config, address), not_before, not_after).interval
            for address, not_before, not_after in renewals.sample(connection, authority, SAMPLE)
        ]
        mean = mean_per_hour(renewals.number_active(connection, authority), intervals)
        self._known[authority] = (now, mean)
        return mean

    def pace(self, connection: sa.Connection, authority: str, now: datetime) -> int:
        """How many renewals and joiners may be opened, and begin, in any sixty minutes."""
        settings = self._config().authorities.get(authority)
        if settings is None:
            return 0
        return background_pace(settings.limits.background_per_hour, self.mean(connection, authority, now))
