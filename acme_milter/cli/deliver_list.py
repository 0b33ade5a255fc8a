# SPDX-License-Identifier: GPL-3.0-or-later
"""`deliver list`: where certificates have gone, and what is in the way of the others."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.table import Column, show_table
from acme_milter.cli.view import make_view, print_document

STATES = ("undone", "waiting", "retrying", "failed", "done", "ended", "withdrawing", "withdrawn", "all")
_COLUMNS = (
    Column("mailbox"),
    Column("target"),
    Column("state"),
    Column("serial", spare=3),
    Column("asked", spare=2),
    Column("attempts", spare=1, right=True),
    Column("remark"),
)


@click.command("list")
@click.argument("addresses", nargs=-1, metavar="[ADDRESS…]")
@click.option("--target", metavar="NAME", help="Only those to one target, by its name.")
@click.option("--domain", metavar="DOMAIN", help="Only those of one domain.")
@click.option("--state", type=click.Choice(STATES), help="How far they are; undone, or all for given ADDRESSES.")
@click.option("--failed", "state", flag_value="failed", help="The same as --state failed: what waits for a person.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def list_deliveries(
    context: click.Context,
    addresses: Sequence[str],
    target: str | None,
    domain: str | None,
    state: str | None,
    as_json: bool,
) -> None:
    """List deliveries that meet every condition given, the longest asked for first."""
    config = load_config_or_exit(context)
    document: dict[str, Any] = make_view(
        context,
        config,
        "delivery-list",
        addresses=list(addresses),
        target=target,
        domain=domain,
        state=state or ("all" if addresses else "undone"),
    )
    if as_json:
        print_document(document)
        return
    rows = document["deliveries"]
    if rows:
        show_table(_COLUMNS, [_cells(row) for row in rows])
    click.echo(f"{len(rows)} deliveries", err=True)
    if any(row["state"] == "failed" for row in rows):
        click.echo("once what is wrong is mended, run: acme-milter deliver retry --all-failed", err=True)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    again = row["next_attempt_at"]
    remark = row["outcome"] or row["error"] or ""
    if row.get("withdraw_why"):
        remark = _of_withdrawal(row)
    if row["state"] == "retrying" and again:
        remark = f"{remark}; next attempt at {again[:19].replace('T', ' ')} UTC"
    return (
        row["address"],
        row["target"],
        row["state"],
        row["serial"],
        row["asked_at"][:10],
        str(row["attempts"]),
        remark,
    )


def _of_withdrawal(row: Mapping[str, Any]) -> str:
    if row["state"] == "withdrawn":
        return f"{row['outcome']} ({row['withdraw_why']})"
    still = f"; still there: {row['outcome']}" if row["outcome"] else ""
    error = f": {row['error']}" if row["error"] else ""
    return f"to be taken back ({row['withdraw_why']}){error}{still}"
