# SPDX-License-Identifier: GPL-3.0-or-later
"""The view `status`: one screen that says how everything is, and what needs a person."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.config.schema import Config
from acme_milter.enrollment.model import State
from acme_milter.enrollment.staging import is_staging
from acme_milter.report import in_the_way
from acme_milter.report.authority_health import health_row
from acme_milter.report.coverage import by_domain, standings, total_of
from acme_milter.report.member import look_up
from acme_milter.report.rows import Row, counted, enrollment_row, instant, plain
from acme_milter.store import authority_health, budgets, delivery_lists, holds, overview, pauses, source_runs, tallies
from acme_milter.store.pauses import Pause

SCHEMA = "acme-milter/status/2"
LISTED = 50
"""So many managed mailboxes are listed one by one without being asked for."""
HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)
MONTH = timedelta(days=30)


def status(
    connection: sa.Connection,
    config: Config,
    now: datetime,
    *,
    addresses: Sequence[str] = (),
    every: bool = False,
) -> Row:
    """``mailboxes`` and ``never_enrolled`` are there for ``addresses``, for everybody who ever had an order with
    ``every``, and for who is managed where those are few.
    """
    domains = by_domain(config, standings(connection, config, now))
    total = total_of(domains)
    document: Row = {
        "schema": SCHEMA,
        "at": now.isoformat(),
        "stages": _stages(tallies.open_states(connection), total),
        "coverage": {"domains": domains, "total": total},
        "today": _today(connection, config, now),
        "authorities": _authorities(connection, config, now),
        "renewals": {
            "due_in_7_days": tallies.renewals_due(connection, now + WEEK, list(config.authorities)),
            "due_in_30_days": tallies.renewals_due(connection, now + MONTH, list(config.authorities)),
        },
        "expiring": {
            "in_7_days": tallies.expiring(connection, now, now + WEEK),
            "in_30_days": tallies.expiring(connection, now, now + MONTH),
        },
        "deliveries": {state.value: count for state, count in delivery_lists.undone(connection).items()},
        "withdrawals": {
            state.value: count for state, count in delivery_lists.undone(connection, withdrawals=True).items()
        },
        "replies": in_the_way.replies(connection, now),
        "caa": in_the_way.forbidden(connection, list(config.authorities)),
        "bulk_runs": [_run(run) for run in tallies.unended_runs(connection)],
    }
    document["needs_you"] = list(_needs(connection, document, now))
    if addresses:
        wanted = [look_up(connection, config, address).address for address in addresses]
        document |= _mailboxes(connection, config, wanted)
    elif every:
        document |= _mailboxes(connection, config, None)
    elif total["managed"] <= LISTED:  # not those who were here before: there may be thousands of them
        document |= _mailboxes(connection, config, [member.address for member in config.members.values()])
    return document


def _mailboxes(connection: sa.Connection, config: Config, wanted: Sequence[str] | None) -> Row:
    rows = overview.latest_of_each_mailbox(connection, wanted)
    enrolled = {row.address for row in rows}
    known = wanted or [member.address for member in config.members.values()]
    never = sorted(address for address in known if address not in enrolled)
    return {
        "mailboxes": [enrollment_row(row) for row in rows],
        "never_enrolled": never,
        "not_managed": [address for address in never if config.member(address) is None],
    }


STAGES: Mapping[str, frozenset[State]] = {
    "planned": frozenset({State.PLANNED}),
    "ordering": frozenset({State.ORDERING}),
    "waiting for mail": frozenset({State.AWAITING_MAIL}),
    "replying": frozenset({State.REPLYING, State.REPLIED}),
    "validating": frozenset({State.VALIDATING}),
    "finalizing": frozenset({State.FINALIZING, State.ISSUED}),
}


def _stages(states: Mapping[State, int], total: Mapping[str, int]) -> dict[str, int]:
    """Enrollments under way by the words people see; ``issued`` and ``failed`` are managed mailboxes."""
    stages = {name: sum(states.get(state, 0) for state in group) for name, group in STAGES.items()}
    return stages | {"issued": total["with_certificate"], "failed": total["failed"]}


def _today(connection: sa.Connection, config: Config, now: datetime) -> Row:
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return {"since": midnight.isoformat(), **tallies.since(connection, midnight, list(config.named_authorities))}


def _authorities(connection: sa.Connection, config: Config, now: datetime) -> list[Row]:
    names = list(config.authorities)
    beginning = budgets.beginning(connection, now)
    ordered = tallies.ordered(connection, now - HOUR, names)
    failed = tallies.failed(connection, now - HOUR, names)
    paused = pauses.in_force(connection, now)
    health = authority_health.of_all(connection)
    rows: list[Row] = [
        {
            "authority": name,
            "in_flight": budgets.moving(connection, name) + sum(beginning.get(name, {}).values()),
            "in_flight_limit": authority.limits.in_flight,
            "orders_this_hour": ordered[name],
            "orders_per_hour": authority.limits.orders_per_hour,
            "failed_this_hour": failed[name],
            "failed_per_hour": authority.limits.failed_per_hour,
            "paused": _pause(paused.get(name)),
            "health": health_row(health.get(name)),
        }
        for name, authority in config.authorities.items()
    ]
    return [row for row in rows if not is_staging(str(row["authority"])) or row["in_flight"] or row["orders_this_hour"]]


def _pause(pause: Pause | None) -> Row | None:
    if pause is None:
        return None
    return {"reason": pause.reason, "since": instant(pause.since), "until": instant(pause.until)}


def _run(run: Mapping[str, object]) -> Row:
    return {key: plain(run[key]) for key in ("id", "kind", "state", "description", "created_at", "outcomes")}


def _needs(connection: sa.Connection, document: Row, now: datetime) -> Iterator[Row]:
    """What goes no further without a person, each with the command that shows or does it."""
    for hold in holds.waiting(connection):
        if hold.released_at is None:
            yield _need("hold", f"{hold.name}: {hold.reason}", f"acme-milter hold release {hold.name}")
    for run in source_runs.all_runs(connection).values():
        if run.error is not None:
            text = f"the source {run.source} cannot be read: {run.error}"
            yield _need("source", text, f"acme-milter mailbox sync --source {run.source} --dry-run")
    for authority in _rows(document["authorities"]):
        pause, name = authority["paused"], authority["authority"]
        if isinstance(pause, dict) and pause["until"] is None:
            yield _need("authority", f"{name} is paused: {pause['reason']}", f"acme-milter authority resume {name}")
        health = _mapping(authority["health"])
        since = health["since"]
        if since is not None and datetime.fromisoformat(str(since)) <= now - HOUR:
            text = f"{name} takes no orders since {str(since)[:16].replace('T', ' ')} UTC: {health['last_error']}"
            yield _need("authority", text, "acme-milter authority list")
    for bulk in _rows(document["bulk_runs"]):
        if bulk["state"] in {"paused", "stopped"}:
            yield _need("bulk", f"{bulk['description']} is {bulk['state']}", f"acme-milter bulk resume {bulk['id']}")
    for kind, text, command in in_the_way.needs(connection, document, now):
        yield _need(kind, text, command)
    _, given_up = tallies.revocations(connection)
    if given_up:
        text = counted(given_up, "certificate could not be revoked", "certificates could not be revoked")
        yield _need("revocation", text, "acme-milter cert list --state revocation-failed")
    waiting = _mapping(document["deliveries"])["failed"]
    if waiting:
        text = counted(
            waiting, "delivery has failed and waits for a person", "deliveries have failed and wait for a person"
        )
        yield _need("delivery", text, "acme-milter deliver list --state failed")
    remaining = _mapping(document["withdrawals"])["failed"]
    if remaining:
        text = counted(
            remaining,
            "delivery that should be taken back is still there, and waits for a person",
            "deliveries that should be taken back are still there, and wait for a person",
        )
        yield _need("withdrawal", text, "acme-milter deliver list --state failed")
    troubled = delivery_lists.in_trouble(connection)
    if troubled:
        text = counted(
            troubled,
            "delivery fails again and again, and is still tried",
            "deliveries fail again and again, and are still tried",
        )
        yield _need("delivery", text, "acme-milter deliver list --state retrying")
    failed = sum(int(str(row["failed"])) for row in _rows(_mapping(document["coverage"])["domains"]))
    if failed:
        text = counted(
            failed,
            "mailbox has no certificate because its order failed",
            "mailboxes have no certificate because their order failed",
        )
        yield _need("failed", text, "acme-milter mailbox list --state failed")
    soon = _mapping(document["expiring"])["in_7_days"]
    if soon:
        text = counted(soon, "certificate expires within 7 days", "certificates expire within 7 days")
        yield _need("expiring", text, "acme-milter report expiring --within 7d")


def _need(kind: str, text: str, command: str) -> Row:
    return {"kind": kind, "text": text, "command": command}


def _rows(value: object) -> list[Row]:
    assert isinstance(value, list)
    return value


def _mapping(value: object) -> Row:
    assert isinstance(value, dict)
    return value
