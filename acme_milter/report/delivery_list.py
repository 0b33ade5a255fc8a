# SPDX-License-Identifier: GPL-3.0-or-later
"""The views `delivery-list`, `delivery-missing` and `delivery-unused`: where certificates are, or ought to be."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa

from acme_milter.config.schema import Config
from acme_milter.delivery.wanted import targets_for
from acme_milter.delivery.whereabouts import takes_back
from acme_milter.mailboxes.holder import holder_of
from acme_milter.report.member import look_up
from acme_milter.report.rows import Row, instant
from acme_milter.report.unanswerable import Unanswerable
from acme_milter.store import delivery_lists, mailbox_keys, overview, withdrawals
from acme_milter.store.deliveries import Delivery, DeliveryState
from acme_milter.store.delivery_lists import InUse
from acme_milter.store.withdrawals import Unused

SCHEMA = "acme-milter/deliver-list/1"
MISSING_SCHEMA = "acme-milter/deliver-missing/1"
UNUSED_SCHEMA = "acme-milter/deliver-unused/1"

STATES: Mapping[str, frozenset[DeliveryState]] = {
    "undone": frozenset({DeliveryState.WAITING, DeliveryState.RETRYING, DeliveryState.FAILED}),
    "waiting": frozenset({DeliveryState.WAITING}),
    "retrying": frozenset({DeliveryState.RETRYING}),
    "failed": frozenset({DeliveryState.FAILED}),
    "not-there": frozenset({DeliveryState.RETRYING, DeliveryState.FAILED}),
    "done": frozenset({DeliveryState.DONE}),
    "ended": frozenset({DeliveryState.ENDED}),
    "withdrawing": frozenset({DeliveryState.WAITING, DeliveryState.RETRYING, DeliveryState.FAILED}),
    "withdrawn": frozenset({DeliveryState.WITHDRAWN}),
    "all": frozenset(DeliveryState),
}


def delivery_list(
    connection: sa.Connection,
    config: Config,
    now: datetime,
    *,
    addresses: Sequence[str] = (),
    target: str | None = None,
    domain: str | None = None,
    state: str = "undone",
) -> Row:
    """Those that meet every condition given, the longest asked for first. ``state`` is one of STATES."""
    _check_domain(config, domain)
    wanted = STATES[state]
    everything = not wanted <= STATES["undone"]
    spelled = [look_up(connection, config, address).address for address in addresses]
    found = [
        one
        for start in range(0, max(len(spelled), 1), overview.AT_ONCE)
        for one in delivery_lists.where(
            connection, addresses=spelled[start : start + overview.AT_ONCE], everything=everything
        )
        if one.state in wanted
        and (state != "withdrawing" or one.withdraw_why is not None)
        and target in {None, one.target}
        and domain in {None, one.address.rpartition("@")[2]}
    ]
    serials = delivery_lists.serials(connection, [one.certificate_id for one in found])
    rows = [delivery_row(one, serials[one.certificate_id]) for one in found]
    return {"schema": SCHEMA, "at": now.isoformat(), "deliveries": rows}


def delivery_missing(
    connection: sa.Connection,
    config: Config,
    now: datetime,
    *,
    target: str | None = None,
    domain: str | None = None,
) -> Row:
    """Mailboxes whose policy names a target that their certificate in use was never asked for at, and can be."""
    _check_domain(config, domain)
    there = delivery_lists.wanted_at(connection)
    missing: dict[str, set[str]] = {}
    with_key: list[tuple[InUse, str]] = []
    for one in delivery_lists.all_in_use(connection):
        if domain not in {None, one.address.rpartition("@")[2]}:
            continue
        for title, section in targets_for(config, one.address, one.principal, one.authority).items():
            if (one.id, title) in there or target not in {None, title}:
                continue
            if section.takes_key:
                with_key.append((one, title))
            else:
                missing.setdefault(one.address, set()).add(title)
    keyless = mailbox_keys.not_here(connection, list({one.id: None for one, _ in with_key}))
    for one, title in with_key:
        if one.id not in keyless:
            missing.setdefault(one.address, set()).add(title)
    rows = [{"address": address, "targets": sorted(titles)} for address, titles in sorted(missing.items())]
    return {"schema": MISSING_SCHEMA, "at": now.isoformat(), "mailboxes": rows}


def delivery_unused(
    connection: sa.Connection,
    config: Config,
    now: datetime,
    *,
    target: str | None = None,
    domain: str | None = None,
) -> Row:
    """Mailboxes of which something may be at a target although nobody uses it any more: at those that give back by
    themselves, or at the one called ``target``.
    """
    _check_domain(config, domain)
    found: dict[str, set[str]] = {}
    for one in withdrawals.unused(connection):
        if domain not in {None, one.address.rpartition("@")[2]}:
            continue
        if target == one.target or (target is None and gives_back(connection, config, one)):
            found.setdefault(one.address, set()).add(one.target)
    rows = [{"address": address, "targets": sorted(titles)} for address, titles in found.items()]
    return {"schema": UNUSED_SCHEMA, "at": now.isoformat(), "mailboxes": rows}


def gives_back(connection: sa.Connection, config: Config, one: Unused) -> bool:
    """Whether what is there is taken back by itself."""
    holder = holder_of(connection, config, one.address, one.principal)
    return takes_back(config, holder, one)


def still_there(connection: sa.Connection, address: str) -> str:
    """A sentence for people about what of the mailbox's is still to be taken back; empty where there is none."""
    rows = delivery_lists.where(connection, addresses=[address], everything=False)
    titles = sorted({one.target for one in rows if one.withdraw_why is not None})
    if not titles:
        return ""
    return (
        f" What was delivered is still to be taken back from {', '.join(titles)}: acme-milter deliver list {address}."
    )


def delivery_row(one: Delivery, serial: str) -> Row:
    """A delivery for --json. ``error`` is why it is not there; of one that has ended, why nobody wants it. With a
    ``withdraw_why``, it is to be there no more: then the state is that of taking back, and ``error`` why it is there.
    """
    return {
        "address": one.address,
        "target": one.target,
        "kind": one.kind,
        "serial": serial,
        "state": one.state.value,
        "asked_at": instant(one.asked_at),
        "attempts": one.attempts,
        "next_attempt_at": instant(one.next_attempt_at),
        "done_at": instant(one.done_at),
        "outcome": one.outcome,
        "error": one.last_error,
        "delivered_at": instant(one.delivered_at),
        "withdraw_why": one.withdraw_why,
    }


def _check_domain(config: Config, domain: str | None) -> None:
    if domain is not None and domain not in config.domains:
        raise Unanswerable(f"no domain {domain} is configured; there are: {', '.join(config.domains)}")
