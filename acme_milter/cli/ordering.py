# SPDX-License-Identifier: GPL-3.0-or-later
"""What follows when the worker was asked to order certificates: what it said, and with --wait how it goes on."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from acme_milter.cli.exit_codes import ExitCode
from acme_milter.cli.view import print_document

if TYPE_CHECKING:
    from acme_milter.cli.progress import Ending, View
    from acme_milter.config.schema import Config
    from acme_milter.store.overview import Overview

LOOK_EVERY = 0.25

REFUSALS = {
    "not-managed": "not a managed mailbox; see why with: acme-milter mailbox why {address}",
    "order-open": "has an order under way already; see: acme-milter mailbox show {address}",
    "no-staging": "its authority has no staging service; name its directory with authorities.NAME.staging",
    "no-certificate": "has no certificate that could be renewed; order one with: acme-milter cert issue {address}",
}
"""Outcomes that bring no order, for people; any other word is shown as it is."""


def end_ordering(
    context: click.Context,
    config: "Config",
    results: Sequence[Mapping[str, Any]],
    *,
    schema: str,
    as_json: bool,
    wait: bool = False,
    timeout: float | None = None,
) -> None:
    """Tell the `results` of a control call that orders, follow them with `wait`, and end the command."""
    refused = [result for result in results if result["id"] is None]
    opened = [result for result in results if result["id"] is not None]
    for result in refused:
        words = REFUSALS.get(result["outcome"], result["outcome"]).format(address=result["address"])
        click.echo(f"{result['address']}: {words}", err=True)
    _warn_of_observing(config, opened)
    if wait:
        _wait(context, config, opened, refused, schema=schema, as_json=as_json, timeout=timeout)
    if as_json:
        print_document({"schema": schema, "results": list(results)})
    else:
        for result in opened:
            click.echo(f"{result['address']}: {result['outcome']}")
    context.exit(exit_code(len(opened), len(refused)))


def _warn_of_observing(config: "Config", opened: Sequence[Mapping[str, Any]]) -> None:
    for result in opened:
        address = str(result["address"])
        # Of a mailbox that a source brought the command knows the domain only.
        policy = config.policy_for(address) or config.policies.get(address.rpartition("@")[2])
        if policy is not None and policy.mode == "observe":
            click.echo(
                f"{address}: mode: observe answers nothing, so its challenge will lie in the inbox and no"
                " certificate come of it; for one set mode: enforce and reload acme-milter",
                err=True,
            )


def _wait(
    context: click.Context,
    config: "Config",
    opened: Sequence[Mapping[str, Any]],
    refused: Sequence[Mapping[str, Any]],
    *,
    schema: str,
    as_json: bool,
    timeout: float | None,
) -> None:
    from acme_milter.cli.progress import Ending, LiveView, PlainView
    from acme_milter.enrollment.model import OPEN_STATES, State
    from acme_milter.report.rows import enrollment_row

    view: View = LiveView() if sys.stdout.isatty() and not as_json else PlainView(quiet=as_json)
    try:
        with view:
            rows, ending = follow(config, [str(result["id"]) for result in opened], view, timeout=timeout)
    except KeyboardInterrupt:
        click.echo("not waiting any longer; they go on without me, see: acme-milter status", err=True)
        context.exit(ExitCode.TRY_LATER)
    if as_json:
        document = {"schema": schema, "results": [enrollment_row(row) for row in rows]}
        not_managed = [result["address"] for result in refused]
        print_document({**document, "not_managed": not_managed, "ending": ending.value})
    if ending is Ending.TIMED_OUT:
        on_their_way = sum(row.state in OPEN_STATES for row in rows)
        click.echo(
            f"{on_their_way} of {len(rows)} still on their way; they go on without me, see: acme-milter status",
            err=True,
        )
        context.exit(ExitCode.TRY_LATER)
    active = sum(row.state in {State.ACTIVE, State.REHEARSED} for row in rows)
    context.exit(exit_code(active, len(rows) - active + len(refused)))


def follow(
    config: "Config",
    ids: Sequence[str],
    view: "View",
    *,
    timeout: float | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> "tuple[list[Overview], Ending]":
    """Look at the enrollments until none is open, or ``timeout`` seconds have passed; returns them in order of ids.

    Where a mailbox has two certificates, the second one's enrollment is looked at once the first one has ended.
    """
    from acme_milter.cli.progress import Ending
    from acme_milter.cli.store import reading_store
    from acme_milter.enrollment.model import OPEN_STATES
    from acme_milter.store import overview

    give_up = None if timeout is None else time.monotonic() + timeout
    found: dict[str, Overview] = {}
    with reading_store(config) as database:
        while True:
            unended = [one for one in ids if one not in found or found[one].state in OPEN_STATES]
            with database.read() as connection:
                found |= {row.id: row for row in overview.of_enrollments(connection, unended)}
                ended = [found[one] for one in unended if one in found and found[one].state not in OPEN_STATES]
                following = sorted(set(overview.after(connection, ended)).difference(ids))
                found |= {row.id: row for row in overview.of_enrollments(connection, following)}
                ids = [*ids, *following]
            rows = [found[one] for one in ids if one in found]
            view.show(rows)
            if not any(row.state in OPEN_STATES for row in rows):
                return rows, Ending.DONE
            if give_up is not None and time.monotonic() > give_up:
                return rows, Ending.TIMED_OUT
            sleep(LOOK_EVERY)


def exit_code(succeeded: int, failed: int) -> ExitCode:
    """0, 3 when only some succeeded, 1 when none did."""
    if failed == 0:
        return ExitCode.OK
    return ExitCode.PARTLY if succeeded else ExitCode.FAILED
