# SPDX-License-Identifier: GPL-3.0-or-later
"""`cert list`: certificates by condition."""

from datetime import datetime, timedelta
from typing import Any

import click

from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.filters import DURATION, INSTANT
from acme_milter.cli.table import Column, show_table
from acme_milter.cli.view import make_view, print_document

COLUMNS = (
    Column("mailbox"),
    Column("serial"),
    Column("authority", spare=3),
    Column("state", spare=2),
    Column("not before", spare=4),
    Column("not after"),
    Column(""),
)
STATES = ("active", "superseded", "revoked", "expired", "rehearsed", "revocation-failed", "all")


@click.command("list")
@click.option("--authority", metavar="NAME", help="Only those of one authority.")
@click.option("--domain", metavar="DOMAIN", help="Only those of one domain.")
@click.option("--expiring", type=DURATION, metavar="TIME", help="Only those that end within TIME (30d).")
@click.option("--issued-before", type=INSTANT, metavar="DATE", help="Only those that begin before DATE (2026-05-04).")
@click.option("--state", type=click.Choice(STATES), default="active", show_default=True, help="How they are used.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def list_certificates(
    context: click.Context,
    authority: str | None,
    domain: str | None,
    expiring: timedelta | None,
    issued_before: datetime | None,
    state: str,
    as_json: bool,
) -> None:
    """List certificates that meet every condition given, the soonest end first."""
    config = load_config_or_exit(context)
    document: dict[str, Any] = make_view(
        context,
        config,
        "certificate-list",
        authority=authority,
        domain=domain,
        expiring_seconds=None if expiring is None else expiring.total_seconds(),
        issued_before=None if issued_before is None else issued_before.isoformat(),
        state=state,
    )
    if as_json:
        print_document(document)
        return
    rows = [
        (
            row["address"],
            row["serial"],
            row["authority"],
            row["state"],
            row["not_before"][:10],
            row["not_after"][:10],
            "",
        )
        for row in document["certificates"]
    ]
    if rows:
        show_table(COLUMNS, rows)
    click.echo(f"{len(rows)} certificates", err=True)
