# SPDX-License-Identifier: GPL-3.0-or-later
"""`status`: how the mailboxes are doing. Reads the store; needs no running role."""

import json
from collections.abc import Sequence

import click
from rich.console import Console

from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.enroll import row_as_json
from acme_milter.cli.progress import count_stages, remark_of
from acme_milter.cli.store import reading_store
from acme_milter.cli.table import Column, print_table
from acme_milter.config.schema import Config
from acme_milter.ipc.client import FrameClient, PeerUnavailable
from acme_milter.store import overview
from acme_milter.store.overview import Overview

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


@click.command()
@click.argument("addresses", nargs=-1, metavar="[ADDRESS…]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def status(context: click.Context, addresses: Sequence[str], as_json: bool) -> None:
    """Show each mailbox's latest enrollment (of these, or of all), and whether the roles are running."""
    config = load_config_or_exit(context)
    wanted = [config.canonical(address) or address for address in addresses] or None
    with reading_store(config) as database, database.read() as connection:
        rows = overview.latest_of_each_mailbox(connection, wanted)
    enrolled = {row.address for row in rows}
    never = sorted(address for address in (wanted or config.managed()) if address not in enrolled)
    running = {"keyd": _answers(config, "keyd"), "worker": _answers(config, "worker")}
    if as_json:
        document = {
            "schema": "acme-milter/status/1",
            "running": running,
            "stages": dict(count_stages(rows)),
            "mailboxes": [row_as_json(row) for row in rows],
            "never_enrolled": never,
        }
        click.echo(json.dumps(document))
    else:
        _print(rows, never, running)
        for address in never if wanted else ():
            known = config.canonical(address) is not None
            click.echo(f"{address}: {'never enrolled' if known else 'not a managed mailbox'}")


def _answers(config: Config, role: str) -> bool:
    path = config.keys.socket if role == "keyd" else config.worker.control_socket
    try:
        with FrameClient(path, timeout=2.0) as peer:
            peer.call({"call": "ping" if role == "worker" else "status"})
    except PeerUnavailable:
        return False
    return True


def _print(rows: Sequence[Overview], never: Sequence[str], running: dict[str, bool]) -> None:
    console = Console(soft_wrap=True)
    roles = ", ".join(f"{role} {'runs' if up else 'does not run'}" for role, up in running.items())
    stages = ", ".join(f"{name} {count}" for name, count in count_stages(rows) if count)
    console.print(f"{roles}; {stages or 'nothing enrolled'}; never enrolled {len(never)}", highlight=False)
    if rows:
        print_table(console, COLUMNS, [_cells(row) for row in rows])


def _cells(row: Overview) -> tuple[str, ...]:
    return (
        row.address,
        row.state.value,
        _short(row.serial),
        row.not_after.date().isoformat() if row.not_after else "",
        f"{(row.state_since - row.opened_at).total_seconds():.1f}",
        row.challenge_queue_id or "",
        row.reply_queue_id or "",
        remark_of(row),
    )


def _short(serial: str | None) -> str:
    """A serial has up to forty digits; the first sixteen name it well enough for the eye."""
    if serial is None:
        return ""
    return serial if len(serial) <= 16 else serial[:16] + "…"
