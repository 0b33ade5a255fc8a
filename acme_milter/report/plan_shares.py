# SPDX-License-Identifier: GPL-3.0-or-later
"""What a bulk plan asks of each authority: orders, challenge mails, and the time that they take by its limits."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from acme_milter.config.schema import Config
from acme_milter.report.pace import SAMPLE, Estimate, Load, Pace, estimate, pace_of
from acme_milter.store import budgets, plan_facts

if TYPE_CHECKING:
    from acme_milter.report.plan import PlanItem


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityShare:
    """What an authority is to do; ``orders_last_hour`` is what of its budget is used already.

    ``orders`` may be more than ``number``, that of the mailboxes: some have two certificates. ``mails`` may be more
    than that: an order has one for each of its addresses.
    """

    name: str
    number: int
    orders: int
    mails: int
    pace: Pace
    failed_per_hour: int
    orders_last_hour: int
    estimate: Estimate


def shares(
    connection: sa.Connection, config: Config, now: datetime, items: "Iterable[PlanItem]"
) -> tuple[AuthorityShare, ...]:
    """What each authority is to do, and how long that takes it."""
    numbers: Counter[str] = Counter()
    loads: dict[str, Load] = {}
    for item in items:
        numbers[item.authority] += 1
        loads[item.authority] = loads.get(item.authority, Load()) + Load(item.orders, item.mails)
    found = []
    for name, number in sorted(numbers.items()):
        limits = config.authorities[name].limits
        pace = pace_of(limits, plan_facts.last_durations(connection, name, SAMPLE))
        found.append(
            AuthorityShare(
                name=name,
                number=number,
                orders=loads[name].orders,
                mails=loads[name].mails,
                pace=pace,
                failed_per_hour=limits.failed_per_hour,
                orders_last_hour=sum(budgets.begun(connection, name, now).values()),
                estimate=estimate(loads[name], pace),
            )
        )
    return tuple(found)
