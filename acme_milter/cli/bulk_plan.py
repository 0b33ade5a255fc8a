# SPDX-License-Identifier: GPL-3.0-or-later
"""`bulk plan`: who would get a certificate and who not, what it takes, as a file that can be read before it is run."""

import json
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import click

from acme_milter.cli.bulk_options import (
    command_line,
    end,
    known_authority,
    known_domains,
    lines_of,
    moment,
    serials_in,
    span,
)
from acme_milter.cli.configured import load_config_or_exit

if TYPE_CHECKING:
    from acme_milter.config.schema import Config
    from acme_milter.report.plan import Plan, Selection


@click.command()
@click.option("--missing", is_flag=True, help="Mailboxes without a valid certificate (the default).")
@click.option("--expiring", type=span, metavar="DURATION", help="Whose certificate ends within this time: 30d.")
@click.option("--domain", "domains", multiple=True, metavar="DOMAIN", help="Only of this domain; may be repeated.")
@click.option("--ca", "authority", metavar="NAME", help="Only from this authority.")
@click.option("--issued-before", type=moment, metavar="DATE", help="Whose certificate was issued before this date.")
@click.option("--from", "source", metavar="FILE|-", help="Only these addresses, one a line.")
@click.option("--serials", metavar="FILE|-", help="Whose certificate has one of these serials, one a line.")
@click.option("--output", "-o", metavar="PLAN", help="The plan file to write; - for standard output.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, without the mailboxes.")
@click.pass_context
def plan(
    context: click.Context,
    missing: bool,
    expiring: timedelta | None,
    domains: tuple[str, ...],
    authority: str | None,
    issued_before: datetime | None,
    source: str | None,
    serials: str | None,
    output: str | None,
    as_json: bool,
) -> None:
    """Plan orders for all mailboxes that meet everything that is given. Orders nothing and needs no worker."""
    from acme_milter.report.plan import Selection

    if missing and (expiring or issued_before or serials):
        raise click.UsageError("--missing are those without a certificate: none of them expires or has a serial")
    if "-" in (source, serials) and source == serials:
        raise click.UsageError("only one of --from and --serials can be standard input")
    config = load_config_or_exit(context)
    selection = Selection(
        domains=known_domains(config, domains),
        authority=known_authority(config, authority),
        expiring=expiring,
        issued_before=issued_before,
        addresses=None if source is None else frozenset(line.lower() for line in lines_of(source)),
        serials=None if serials is None else serials_in(serials),
    )
    made = make(config, selection)
    publish(context, made, output, as_json=as_json)


def make(config: "Config", selection: "Selection", *, replace: bool = False, revoke: str | None = None) -> "Plan":
    """The plan by what the store says now; ends the command without a store."""
    from acme_milter.cli.store import reading_store
    from acme_milter.clock import Clock
    from acme_milter.report.plan import make_plan
    from acme_milter.store.bulk_runs import Kind

    kind = Kind.REPLACE if replace else Kind.ISSUE
    with reading_store(config) as database, database.read() as connection:
        return make_plan(connection, config, Clock().now(), selection, kind=kind, revoke=revoke)


def publish(
    context: click.Context, plan: "Plan", output: str | None, *, as_json: bool = False, runs: bool = False
) -> None:
    """Write the plan file, and tell people, or with `as_json` programs, what stands in it.

    `runs`: what comes next is not for them to do.
    """
    from acme_milter.report.plan_file import document_of

    if output is not None:
        write_plan(plan, output)
    if as_json:
        click.echo(json.dumps(document_of(plan)))
    elif output != "-":
        _tell(plan)
        if not plan.items:
            click.echo("nothing to order")
        elif runs:
            return
        elif output is None:
            click.echo("nothing is ordered yet, and no file was written: give one with -o plan.json")
        else:
            click.echo(f"nothing is ordered yet; next: {command_line(context, 'bulk', 'run', output)}")


def write_plan(plan: "Plan", output: str) -> None:
    """Write the file whole or not at all; ends the command when it cannot be written."""
    import tempfile
    from pathlib import Path

    from acme_milter.report.plan_file import write

    if output == "-":
        write(plan, sys.stdout)
        return
    path = Path(output)
    try:
        # A plan that was only half written must not pass for a whole one.
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as out:
            write(plan, out.file)
        Path(out.name).replace(path)
    except OSError as error:
        end(f"{path}: {error.strerror}")


def _tell(plan: "Plan") -> None:
    from rich.console import Console

    from acme_milter.cli.table import Column, print_table
    from acme_milter.report.pace import in_words
    from acme_milter.report.plan_file import describe

    click.echo(f"{describe(plan.kind, plan.selection)}: {len(plan.items)} mailboxes")
    if plan.items:
        columns = (Column("domain"), Column("authority"), Column("mailboxes", right=True), Column(""))
        rows = [(domain, authority, str(number), "") for domain, authority, number in plan.counts()]
        print_table(Console(soft_wrap=True), columns, rows)
    for one in plan.excluded:
        more = ", …" if one.number > 3 else ""
        click.echo(f"left out, {one.number}: {one.reason} ({', '.join(one.examples[:3])}{more})")
    for share in plan.authorities:
        hourly = [
            f"{limit} {name} an hour"
            for limit, name in ((share.pace.orders_per_hour, "orders"), (share.pace.mails_per_hour, "challenge mails"))
            if limit is not None
        ]
        budget = ", ".join([*hourly, f"{share.pace.in_flight} in flight"])
        click.echo(
            f"authority {share.name}: {budget}; {share.orders_last_hour} orders begun in the last hour;"
            f" a run stops at {share.failed_per_hour} failures an hour"
        )
        mails = "" if share.mails == share.orders else f", with {share.mails} challenge mails,"
        takes = in_words(share.estimate.takes)
        click.echo(f"  {share.orders} orders{mails} would take {takes} ({share.estimate.bound_by})")
    if plan.revoke is not None:
        click.echo(f"what is replaced is revoked afterwards, reason {plan.revoke}")
