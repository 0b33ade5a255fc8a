# SPDX-License-Identifier: GPL-3.0-or-later
"""`enroll`: open enrollments, and with --wait follow them to their end."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import click

from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.exit_codes import ExitCode
from acme_milter.cli.progress import Ending, LiveView, PlainView, View
from acme_milter.cli.store import as_owner, reading_store
from acme_milter.config.schema import Config
from acme_milter.enrollment.model import OPEN_STATES, State
from acme_milter.ipc.client import FrameClient, PeerForbidden, PeerUnavailable
from acme_milter.store import overview
from acme_milter.store.overview import Overview

BATCH = 2000
"""Addresses in one request, well inside a frame."""

LOOK_EVERY = 0.25


@click.command()
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS…")
@click.option("--wait", is_flag=True, help="Show progress; end when each one is active or has failed.")
@click.option(
    "--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="With --wait: give up waiting after this."
)
@click.option("--again", is_flag=True, help="Order even where a certificate is active.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def enroll(
    context: click.Context, addresses: Sequence[str], wait: bool, timeout: float | None, again: bool, as_json: bool
) -> None:
    """Order a certificate for each ADDRESS; "-" reads addresses from standard input, one a line.

    They are ordered by the running worker, and go on whether or not somebody waits. Exit status 0 when all were
    opened (with --wait: are active), 3 when some, 1 when none, 75 when it took longer than --timeout.
    """
    config = load_config_or_exit(context)
    wanted = list(dict.fromkeys(_addresses(addresses)))
    if not wanted:
        raise click.UsageError("no address was given")
    results = ask_for(config, wanted, again=again)
    refused = [str(result["address"]) for result in results if result["outcome"] == "not-managed"]
    ids = [str(result["id"]) for result in results if result["id"] is not None]
    for address in refused:
        click.echo(f"{address}: not a managed mailbox; add it under domains in {config.path}", err=True)
    for result in results:
        policy = config.policy_for(str(result["address"]))
        if result["id"] is not None and policy is not None and policy.mode == "observe":
            click.echo(
                f"{result['address']}: mode: observe answers nothing, so its challenge will lie in the inbox and no"
                " certificate come of it; for one set mode: enforce and restart acme-milter",
                err=True,
            )
    if not wait:
        if as_json:
            click.echo(json.dumps({"schema": "acme-milter/enroll/1", "results": results}))
        else:
            for result in results:
                if result["id"] is not None:
                    click.echo(f"{result['address']}: {result['outcome']}")
        context.exit(_exit_code(len(ids), len(refused)))
    view: View = LiveView() if sys.stdout.isatty() and not as_json else PlainView(quiet=as_json)
    try:
        with view:
            rows, ending = follow(config, ids, view, timeout=timeout)
    except KeyboardInterrupt:
        click.echo("not waiting any longer; they go on without me, see: acme-milter status", err=True)
        context.exit(ExitCode.TRY_LATER)
    if as_json:
        document = {
            "schema": "acme-milter/enroll/1",
            "results": [row_as_json(row) for row in rows],
            "not_managed": refused,
            "ending": ending.value,
        }
        click.echo(json.dumps(document))
    active = sum(row.state is State.ACTIVE for row in rows)
    if ending is Ending.TIMED_OUT:
        on_their_way = sum(row.state in OPEN_STATES for row in rows)
        click.echo(
            f"{on_their_way} of {len(rows)} still on their way; they go on without me, see: acme-milter status",
            err=True,
        )
        context.exit(ExitCode.TRY_LATER)
    context.exit(_exit_code(active, len(rows) - active + len(refused)))


def ask_for(config: Config, addresses: Sequence[str], *, again: bool) -> list[dict[str, object]]:
    """Ask the running worker for enrollments; exits 75 when none is running."""
    results: list[dict[str, object]] = []
    try:
        with FrameClient(config.worker.control_socket, timeout=30.0) as worker:
            for start in range(0, len(addresses), BATCH):
                request = {"call": "enroll", "addresses": list(addresses[start : start + BATCH]), "again": again}
                answer, _ = worker.call(request)
                if "results" not in answer:
                    click.echo("the worker could not do it now; its log says why", err=True)
                    raise click.exceptions.Exit(ExitCode.TRY_LATER)
                results += cast("list[dict[str, object]]", answer["results"])
    except PeerForbidden as error:
        click.echo(f"{error}; {as_owner(config.worker.control_socket)}", err=True)
        raise click.exceptions.Exit(ExitCode.PERMISSION) from None
    except PeerUnavailable as error:
        click.echo(f"no worker is listening: {error}; start it with: acme-milter --config {config.path} run", err=True)
        raise click.exceptions.Exit(ExitCode.TRY_LATER) from None
    return results


def follow(
    config: Config,
    ids: Sequence[str],
    view: View,
    *,
    timeout: float | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[list[Overview], Ending]:
    """Look at the enrollments until none is open, or ``timeout`` seconds have passed; returns them in order of ids."""
    give_up = None if timeout is None else time.monotonic() + timeout
    with reading_store(config) as database:
        while True:
            with database.read() as connection:
                found = {row.id: row for row in overview.of_enrollments(connection, ids)}
            rows = [found[row_id] for row_id in ids if row_id in found]
            view.show(rows)
            if not any(row.state in OPEN_STATES for row in rows):
                return rows, Ending.DONE
            if give_up is not None and time.monotonic() > give_up:
                return rows, Ending.TIMED_OUT
            sleep(LOOK_EVERY)


def row_as_json(row: Overview) -> dict[str, object]:
    """One enrollment for --json output; times are RFC 3339, ``seconds`` is how long it has taken so far."""
    return {
        "address": row.address,
        "id": row.id,
        "authority": row.authority,
        "state": row.state.value,
        "seconds": round((row.state_since - row.opened_at).total_seconds(), 3),
        "serial": row.serial,
        "not_after": row.not_after.isoformat() if row.not_after else None,
        "challenge_queue_id": row.challenge_queue_id,
        "reply_queue_id": row.reply_queue_id,
        "error": row.last_error,
        "next_attempt_at": row.next_attempt_at.isoformat() if row.next_attempt_at else None,
    }


def _addresses(arguments: Sequence[str]) -> Iterator[str]:
    for argument in arguments:
        if argument == "-":
            yield from (line.strip() for line in sys.stdin if line.strip() and not line.lstrip().startswith("#"))
        else:
            yield argument


def _exit_code(succeeded: int, failed: int) -> ExitCode:
    if failed == 0:
        return ExitCode.OK
    return ExitCode.PARTLY if succeeded else ExitCode.FAILED
