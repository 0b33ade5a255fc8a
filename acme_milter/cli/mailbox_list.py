# SPDX-License-Identifier: GPL-3.0-or-later
"""`mailbox list`: managed mailboxes by condition."""

from datetime import timedelta
from typing import Any

import click

from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.filters import DURATION
from acme_milter.cli.table import Column, show_table
from acme_milter.cli.view import make_view, print_document

COLUMNS = (
    Column("mailbox"),
    Column("state"),
    Column("authority", spare=2),
    Column("not after"),
    Column("source", spare=1),
    Column("remark"),
)
STATES = ("certificate", "open", "failed", "without")


@click.command("list")
@click.option("--without-cert", is_flag=True, help="Only those that have no valid certificate.")
@click.option("--expiring", type=DURATION, metavar="TIME", help="Only those whose certificate ends within TIME (30d).")
@click.option("--domain", metavar="DOMAIN", help="Only those of one domain.")
@click.option("--missing", is_flag=True, help="Only those that their source does not list any more.")
@click.option("--state", type=click.Choice(STATES), help="Only those that stand so.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def list_mailboxes(
    context: click.Context,
    without_cert: bool,
    expiring: timedelta | None,
    domain: str | None,
    missing: bool,
    state: str | None,
    as_json: bool,
) -> None:
    """List managed mailboxes that meet every condition given.

    The state is `certificate` with a valid one, `open` while the first one is ordered, `failed` when its order failed,
    `without` when there is none and nothing under way.
    """
    config = load_config_or_exit(context)
    document: dict[str, Any] = make_view(
        context,
        config,
        "mailbox-list",
        domain=domain,
        state=state,
        without_certificate=without_cert,
        gone=missing,
        expiring_seconds=None if expiring is None else expiring.total_seconds(),
    )
    if as_json:
        print_document(document)
        return
    rows = [_cells(row) for row in document["mailboxes"]]
    if rows:
        show_table(COLUMNS, rows)
    click.echo("1 mailbox" if len(rows) == 1 else f"{len(rows)} mailboxes", err=True)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    remark = "not in its source any more" if row["gone"] else ""
    return (row["address"], row["state"], row["authority"] or "", (row["not_after"] or "")[:10], row["source"], remark)
