# SPDX-License-Identifier: GPL-3.0-or-later
"""How long it would take to replace every certificate of an authority on some day. A view, `bulk-simulate`.

S/MIME BR 4.9.1.1 gives an authority 24 hours or five days to revoke, and the mailboxes no more than that.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.config.member import Member
from acme_milter.config.schema import Config, Policy
from acme_milter.enrollment.kinds import usages_of
from acme_milter.mailboxes.aliases import replies_of
from acme_milter.report.pace import SAMPLE, Load, Pace, done_after, estimate, needed, pace_of
from acme_milter.report.plan import every_mailbox
from acme_milter.report.unanswerable import Unanswerable
from acme_milter.store import plan_facts

SCHEMA = "acme-milter/bulk-simulate/1"
HOURS = (1, 2, 4, 8, 12, 24, 48, 96, 120)
"""Hours after the begin at which the picture is taken."""

DEADLINES = (timedelta(hours=24), timedelta(days=4), timedelta(days=5))


def bulk_simulate(
    connection: sa.Connection, config: Config, now: datetime, *, when: str, authority: str | None = None
) -> dict[str, object]:
    """``when`` is RFC 3339. For one authority or all: the certificates there would be, every managed mailbox having
    one that was renewed until then, and how long replacing them takes by the limits of today. Raises Unanswerable.
    """
    day = datetime.fromisoformat(when)
    if day < now:
        raise Unanswerable(f"{day:%Y-%m-%d} is over; name a day to come")
    if authority is not None and authority not in config.named_authorities:
        raise Unanswerable(f"authorities.{authority}: is not configured")
    authority_of: dict[tuple[str, str], str] = {}
    mailboxes: Counter[str] = Counter()
    loads: dict[str, Load] = {}
    for member, policy in _certified(connection, config):
        name = policy.authorities[0]
        authority_of[member.address, member.principal] = name
        mailboxes[name] += 1
        orders = len(usages_of(policy.certificate.layout))
        loads[name] = loads.get(name, Load()) + Load(orders, orders * replies_of(config, member, name))
    unrenewed = _alive_elsewhere(connection, authority_of, day)
    wanted = [authority] if authority is not None else sorted(mailboxes.keys() | unrenewed.keys())
    return {
        "schema": SCHEMA,
        "when": day.isoformat(),
        "authorities": [
            {"authority": name, "mailboxes": mailboxes[name]}
            | _of_authority(connection, config, name, loads.get(name, Load()), unrenewed.get(name, 0))
            for name in wanted
        ],
    }


def _certified(connection: sa.Connection, config: Config) -> Iterator[tuple[Member, Policy]]:
    """Everybody who gets certificates; an alias with one of its own is one of them."""
    for member, obstacle in every_mailbox(connection, config):
        policy = None if obstacle else config.layers[member.domain].policy_of(member)
        if policy is not None and policy.mode != "observe":
            yield member, policy


def _alive_elsewhere(
    connection: sa.Connection, authority_of: Mapping[tuple[str, str], str], day: datetime
) -> Mapping[str, int]:
    """Certificates of today that will be alive and that nobody will have renewed with the same authority."""
    alive: Counter[str] = Counter()
    for held in plan_facts.active_certificates(connection):
        if held.not_after > day and authority_of.get((held.address, held.principal)) != held.authority:
            alive[held.authority] += 1
    return alive


def _of_authority(
    connection: sa.Connection, config: Config, name: str, load: Load, unrenewed: int
) -> dict[str, object]:
    settings = config.authorities.get(name)
    durations = plan_facts.last_durations(connection, name, SAMPLE)
    pace = pace_of(settings.limits, durations) if settings is not None else Pace(in_flight=1)
    found = estimate(load, pace)
    limits = {within: needed(load, pace, within) for within in DEADLINES}
    return {
        "certificates": load.orders + unrenewed,
        "to_replace": load.orders,
        "mails": load.mails,
        "only_to_revoke": unrenewed,
        "takes_seconds": round(found.takes.total_seconds()),
        "bound_by": found.bound_by,
        "rests_on": pace.rests_on,
        "hours": [
            {"hour": hour, "replaced": done_after(timedelta(hours=hour), load, pace)}
            for hour in HOURS
            if hour == 1 or done_after(timedelta(hours=_before(hour)), load, pace) < load.orders
        ],
        "needed": [
            {
                "within_seconds": round(within.total_seconds()),
                "in_time": found.takes <= within,
                "in_flight": limit.in_flight,
                "per_hour": limit.orders_per_hour,
                "mails_per_hour": limit.mails_per_hour,
            }
            for within, limit in limits.items()
        ],
    }


def _before(hour: int) -> int:
    return HOURS[HOURS.index(hour) - 1]
