# SPDX-License-Identifier: GPL-3.0-or-later
"""How a bulk run is doing: by domain, by stage, by authority, and its failures by cause. A view, `bulk-status`."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.config.schema import Config
from acme_milter.enrollment.kinds import usages_of
from acme_milter.mailboxes.aliases import replies_for
from acme_milter.report.forecast import policy_of
from acme_milter.report.pace import HOUR, SAMPLE, Load, estimate, pace_of
from acme_milter.report.unanswerable import Unanswerable
from acme_milter.store import budgets, bulk_runs, bulk_tallies, plan_facts
from acme_milter.store.bulk_items import UNENDED_OUTCOMES, Outcome
from acme_milter.store.bulk_runs import BulkRun, RunState
from acme_milter.store.bulk_tallies import DomainTally

SCHEMA = "acme-milter/bulk-status/1"
CAUSES = 20
"""How many causes and reasons are told apart; the rest is counted together."""

_PARTICULAR = re.compile(r"https?://\S+|[0-9a-fA-F]{8,}|\S+@\S+|[0-9]{4,}")


def bulk_status(
    connection: sa.Connection, config: Config, now: datetime, *, run: str | None = None
) -> dict[str, object]:
    """The run of that id, or the newest one. Times are RFC 3339, durations seconds. Raises Unanswerable."""
    found = find_run(connection, run)
    tally = bulk_tallies.of_run(connection, found.id, now - HOUR)
    total = _sum(tally.domains)
    # A run of minutes has no rate an hour until it is an hour old; then it is what the last hour brought.
    age = min(max(now - found.created_at, timedelta(seconds=1)), HOUR)
    return {
        "schema": SCHEMA,
        "run": run_document(found),
        "at": now.isoformat(),
        "total": sum(total.values()),
        "outcomes": {outcome.value: total.get(outcome, 0) for outcome in Outcome},
        "domains": [_domain(one, found, age) for one in tally.domains],
        "rate_per_hour": _rate(sum(one.active_lately for one in tally.domains), age),
        "eta_seconds": _eta(connection, config, found, tally.left),
        "stages": {state.value: number for state, number in bulk_tallies.stages(connection, found.id).items()},
        "failures": _grouped(bulk_tallies.reasons(connection, found.id, Outcome.FAILED)),
        "retrying": _grouped(bulk_tallies.reasons(connection, found.id, Outcome.RETRYING)),
        "skipped": _grouped(bulk_tallies.reasons(connection, found.id, Outcome.SKIPPED)),
        "authorities": _authorities(connection, config, found, now, sorted(tally.left)),
        "next": _next_command(found, total),
    }


def bulk_list(connection: sa.Connection, _config: Config, _now: datetime, *, limit: int = 50) -> dict[str, object]:
    """The newest runs, each with the number of its items by outcome."""
    runs = []
    for found in bulk_runs.newest_first(connection, limit):
        numbers = bulk_tallies.outcomes(connection, found.id)
        runs.append(
            run_document(found)
            | {
                "total": sum(numbers.values()),
                "outcomes": {outcome.value: numbers.get(outcome, 0) for outcome in Outcome},
            }
        )
    return {"schema": "acme-milter/bulk-list/1", "runs": runs}


def find_run(connection: sa.Connection, run_id: str | None) -> BulkRun:
    """The run of that id, or the newest one. Raises Unanswerable."""
    found = bulk_runs.newest(connection) if run_id is None else bulk_runs.get(connection, run_id)
    if found is None and run_id is None:
        raise Unanswerable("there has been no bulk run yet; make a plan: acme-milter bulk plan -o plan.json")
    if found is None:
        raise Unanswerable(f"there is no run {run_id!r}; see: acme-milter bulk list")
    return found


def run_document(run: BulkRun) -> dict[str, object]:
    """A run as JSON has it; ``stopped`` names authorities with the reason."""
    return {
        "id": run.id,
        "kind": run.kind.value,
        "state": run.state.value,
        "description": run.description,
        "created_at": run.created_at.isoformat(),
        "ended_at": None if run.ended_at is None else run.ended_at.isoformat(),
        "stopped": dict(run.stopped),
        "revoke_reason": run.revoke_reason,
    }


def cause_of(reason: str) -> str:
    """A reason without what is particular to one mailbox, so that equal troubles are counted together."""
    return _PARTICULAR.sub("…", reason)[:300]


def _sum(tallies: Sequence[DomainTally]) -> Mapping[Outcome, int]:
    total: Counter[Outcome] = Counter()
    for tally in tallies:
        total.update(tally.outcomes)
    return total


def _rate(done: int, age: timedelta) -> float:
    return round(done / (age / HOUR), 1)


def _domain(tally: DomainTally, run: BulkRun, age: timedelta) -> dict[str, object]:
    left = sum(tally.outcomes.get(outcome, 0) for outcome in UNENDED_OUTCOMES)
    rate = _rate(tally.active_lately, age)
    goes_on = run.state is RunState.RUNNING and left > 0 and rate > 0
    return {
        "domain": tally.domain,
        "total": sum(tally.outcomes.values()),
        **{outcome.value: tally.outcomes.get(outcome, 0) for outcome in Outcome},
        "rate_per_hour": rate,
        "eta_seconds": round(left / rate * 3600) if goes_on else None,
    }


def _eta(connection: sa.Connection, config: Config, run: BulkRun, left: Mapping[str, int]) -> int | None:
    """By the limits and what the newest orders took; None for a run that does not go on by itself."""
    if run.state is not RunState.RUNNING or not any(left.values()):
        return None
    longest = timedelta(0)
    for name, number in left.items():
        authority = config.authorities.get(name)
        if authority is not None and name not in run.stopped:
            pace = pace_of(authority.limits, plan_facts.last_durations(connection, name, SAMPLE))
            longest = max(longest, estimate(_load(connection, config, run, name, number), pace).takes)
    return round(longest.total_seconds())


def _load(connection: sa.Connection, config: Config, run: BulkRun, authority: str, number: int) -> Load:
    """What the items that are left take together, concluded from some of them: a run is looked at once a second."""
    load = Load()
    some = bulk_tallies.some_left(connection, run.id, authority, SAMPLE)
    for address, replaces, also_replaces in some:
        layout = policy_of(config, address).certificate.layout
        orders = len(usages_of(layout)) if replaces is None else 1 + (also_replaces is not None)
        load += Load(orders, orders * replies_for(config, address, authority))
    return Load(*(math.ceil(each * number / max(len(some), 1)) for each in (load.orders, load.mails)))


def _grouped(reasons: list[tuple[str, int]]) -> list[dict[str, object]]:
    causes: Counter[str] = Counter()
    for reason, number in reasons:
        causes[cause_of(reason)] += number
    common = causes.most_common(CAUSES)
    rest = sum(causes.values()) - sum(number for _, number in common)
    shown = [{"cause": cause, "number": number} for cause, number in common]
    return [*shown, {"cause": "other causes", "number": rest}] if rest else [*shown]


def _authorities(
    connection: sa.Connection, config: Config, run: BulkRun, now: datetime, names: Sequence[str]
) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for name in names:
        limits = config.authorities[name].limits if name in config.authorities else None
        found.append(
            {
                "authority": name,
                "in_flight": budgets.moving(connection, name),
                "in_flight_limit": None if limits is None else limits.in_flight,
                "orders_last_hour": sum(budgets.begun(connection, name, now).values()),
                "orders_per_hour": None if limits is None else limits.orders_per_hour,
                "mails_last_hour": budgets.replies(connection, name, now),
                "mails_per_hour": None if limits is None else limits.mails_per_hour,
                "failed_last_hour": budgets.failed(connection, name, max(now - HOUR, run.counted_from)),
                "failed_per_hour": None if limits is None else limits.failed_per_hour,
            }
        )
    return found


def _next_command(run: BulkRun, total: Mapping[Outcome, int]) -> str | None:
    if run.state in {RunState.PAUSED, RunState.STOPPED}:
        return f"acme-milter bulk resume {run.id}"
    if run.stopped and run.state is RunState.RUNNING:
        return f"acme-milter bulk resume {run.id}"
    if run.state is RunState.DONE and total.get(Outcome.FAILED):
        return f"acme-milter bulk retry {run.id}"
    return None
