# SPDX-License-Identifier: GPL-3.0-or-later
"""`status`: one screen that says how everything is. Asks the worker; without one it reads the store."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from acme_milter.cli.configured import Sockets, config_path, exit_code_for_faults, load_config_or_sockets
from acme_milter.cli.table import Column, show_table
from acme_milter.cli.view import ask_view, ask_view_of_worker, print_document
from acme_milter.ipc.client import FrameClient, PeerUnavailable

COLUMNS = (
    Column("mailbox"),
    Column("state"),
    Column("serial", spare=3),
    Column("not after"),
    Column("seconds", spare=4, right=True),
    Column("challenge", spare=2),
    Column("reply", spare=1),
    Column("remark"),
)
_DOMAINS = (
    Column("domain"),
    Column("certificate", right=True),
    Column("of", right=True),
    Column("open", right=True),
    Column("failed", right=True),
    Column("without", right=True),
    Column(""),
)


@click.command()
@click.argument("addresses", nargs=-1, metavar="[ADDRESS…]")
@click.option("--all", "every", is_flag=True, help="List every mailbox, however many there are.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def status(context: click.Context, addresses: Sequence[str], every: bool, as_json: bool) -> None:
    """Show whether the roles run, who has a certificate, what is under way, and what needs a person.

    With ADDRESSES, and where at most 50 mailboxes are managed, each one's latest order is listed; with --all
    everybody's who ever had one. When the configuration file has faults, these are told first, and a worker that still
    runs by an earlier one answers; the exit status is 78 then.
    """
    found = load_config_or_sockets(context)
    document: dict[str, Any] | None
    if isinstance(found, Sockets):
        sockets = found
        document = ask_view_of_worker(sockets.worker, "status", addresses=list(addresses), every=every)
    else:
        sockets = Sockets(found.worker.control_socket, found.keys.socket)
        document = ask_view(context, found, "status", addresses=list(addresses), every=every)
    if document is not None:
        _add_roles(document, sockets)
        _show(document, addresses, as_json=as_json)
    if isinstance(found, Sockets):
        context.exit(exit_code_for_faults(config_path(context)))


def _show(document: dict[str, Any], addresses: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        print_document(document)
        return
    if not addresses:
        _print_summary(document)
    _print_mailboxes(document)
    for address in document.get("never_enrolled", ()) if addresses else ():
        known = address not in document["not_managed"]
        click.echo(f"{address}: {'never enrolled' if known else 'not a managed mailbox'}")


def _add_roles(document: dict[str, Any], sockets: Sockets) -> None:
    """Who runs, and what of the configuration file is not in force."""
    configuration = _answer(sockets.worker, "configuration")
    document["running"] = {"keyd": _answer(sockets.keyd, "status") is not None, "worker": configuration is not None}
    if configuration is None or "error" in configuration:  # nobody runs, or an older version
        document["configuration"] = None
        return
    document["configuration"] = configuration
    document["needs_you"] = [*_configuration_needs(configuration), *document["needs_you"]]


def _answer(path: Path, call: str) -> dict[str, Any] | None:
    try:
        with FrameClient(path, timeout=2.0) as peer:
            return peer.call({"call": call})[0]
    except PeerUnavailable:
        return None


def _configuration_needs(configuration: dict[str, Any]) -> Iterator[dict[str, str]]:
    if configuration["refused"]:
        more = configuration["faults"] - 1
        since = f"{configuration['since'][:16].replace('T', ' ')} UTC"
        text = (
            f"since {since} the configuration file is refused, and an earlier one stays in force:"
            f" {configuration['refused'][0]}{f' (and {more} more)' if more else ''}"
        )
        command = "acme-milter config check && systemctl reload acme-milter-worker"
        yield {"kind": "configuration", "text": text, "command": command}
    if configuration["needs_restart"]:
        text = (
            f"{', '.join(configuration['needs_restart'])}: what the file says counts from the next start of the roles"
        )
        command = "systemctl restart acme-milter-keyd acme-milter-worker acme-milter-milter"
        yield {"kind": "restart", "text": text, "command": command}


def _print_summary(document: dict[str, Any]) -> None:
    roles = (f"{role} {'runs' if up else 'does not run'}" for role, up in document["running"].items())
    stages = ", ".join(f"{name} {count}" for name, count in document["stages"].items() if count)
    click.echo(f"{', '.join(roles)}; {stages or 'nothing enrolled'}")
    click.echo()
    domains = document["coverage"]["domains"]
    if domains:
        total = {"domain": "all", **document["coverage"]["total"]}
        show_table(_DOMAINS, [_domain_cells(row) for row in ([*domains, total] if len(domains) > 1 else domains)])
        click.echo()
    lines = (_today(document["today"]), *_authorities(document["authorities"]), _ahead(document))
    undone = [_undone(what, document.get(what, {})) for what in ("deliveries", "withdrawals")]
    for line in (*lines, *filter(None, undone)):
        click.echo(line)
    late = document["replies"]
    if late["deferred"] or late["bounced_today"]:
        wait = "waits" if late["deferred"] == 1 else "wait"
        click.echo(f"replies: {late['deferred']} {wait} in Postfix's queue, {late['bounced_today']} bounced today")
    for run in document["bulk_runs"]:
        counts = ", ".join(f"{name} {count}" for name, count in run["outcomes"].items())
        click.echo(f"bulk: {run['description']}, {run['state']}: {counts or 'empty'}")
    needs = document["needs_you"]
    click.echo(f"needs you: {len(needs) or 'nothing'}")
    for need in needs:
        click.echo(f"  {need['text']}\n    {need['command']}")


def _domain_cells(row: dict[str, Any]) -> tuple[str, ...]:
    counts = (row["with_certificate"], row["managed"], row["open"], row["failed"], row["without"])
    gone = f"{row['gone']} not in their source any more" if row["gone"] else ""
    return (row["domain"], *(f"{count}" for count in counts), gone)


def _today(today: dict[str, Any]) -> str:
    return (
        f"today: ordered {today['ordered']}, challenge mails {today['challenge_mails']}, replies {today['replies']},"
        f" issued {today['issued']}, failed {today['failed']}"
    )


def _authorities(authorities: Sequence[dict[str, Any]]) -> Iterator[str]:
    for row in authorities:
        budget = f" of {row['orders_per_hour']}" if row["orders_per_hour"] else ""
        line = (
            f"authority {row['authority']}: in flight {row['in_flight']} of {row['in_flight_limit']},"
            f" ordered this hour {row['orders_this_hour']}{budget}, failed {row['failed_this_hour']}"
        )
        if (pause := row["paused"]) is not None:
            line += f"; paused until {pause['until'] or 'somebody resumes it'}: {pause['reason']}"
        if (health := row["health"])["since"] is not None:
            line += f"; {health['state']}, takes no orders since {health['since']}: {health['last_error']}"
        yield line


def _ahead(document: dict[str, Any]) -> str:
    renewals, expiring = document["renewals"], document["expiring"]
    return (
        f"renewals due in 7 days {renewals['due_in_7_days']}, in 30 days {renewals['due_in_30_days']};"
        f" expiring in 7 days {expiring['in_7_days']}, in 30 days {expiring['in_30_days']}"
    )


def _undone(what: str, undone: dict[str, int]) -> str:
    counts = ", ".join(f"{state} {count}" for state, count in undone.items() if count)
    return f"{what}: {counts}" if counts else ""


def _print_mailboxes(document: dict[str, Any]) -> None:
    rows = document.get("mailboxes")
    if rows:
        click.echo()
        show_table(COLUMNS, [_cells(row) for row in rows])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["address"],
        row["state"],
        short(row["serial"]),
        (row["not_after"] or "")[:10],
        f"{row['seconds']:.1f}",
        row["challenge_queue_id"] or "",
        row["reply_queue_id"] or "",
        row["remark"],
    )


def short(serial: str | None) -> str:
    """A serial has up to forty digits; the first sixteen name it well enough for the eye."""
    if serial is None:
        return ""
    return serial if len(serial) <= 16 else serial[:16] + "…"
