# SPDX-License-Identifier: GPL-3.0-or-later
"""`bulk status` and `bulk list`: how runs are doing."""

import sys
from typing import Any, cast

import click

from acme_milter.cli.bulk_view import BulkLiveView, BulkPlainView, View, exit_code, follow_run, tell_next, text_lines
from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.exit_codes import ExitCode
from acme_milter.cli.view import ask_view, print_document


@click.command()
@click.argument("run", required=False, metavar="[RUN]")
@click.option("--watch", is_flag=True, help="Show it again and again until it goes on no more.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def status(context: click.Context, run: str | None, watch: bool, as_json: bool) -> None:
    """Show RUN (default: the newest): by domain and stage, its pace, and its failures by cause."""
    config = load_config_or_exit(context)
    if watch:
        view: View = BulkLiveView() if sys.stdout.isatty() and not as_json else BulkPlainView(quiet=as_json)
        try:
            with view:
                document = follow_run(context, config, run, view)
        except KeyboardInterrupt:  # whoever only watches pauses nothing
            context.exit(ExitCode.OK)
    else:
        document = ask_view(context, config, "bulk-status", run=run)
    if as_json:
        print_document(document)
    else:
        if not watch:
            click.echo("\n".join(text_lines(document)))
        tell_next(context, document)
    context.exit(exit_code(document) if watch else ExitCode.OK)


@click.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def list_runs(context: click.Context, as_json: bool) -> None:
    """List the runs, the newest first."""
    from rich.console import Console

    from acme_milter.cli.table import Column, print_table

    config = load_config_or_exit(context)
    document = ask_view(context, config, "bulk-list")
    if as_json:
        print_document(document)
        return
    runs = cast("list[dict[str, Any]]", document["runs"])
    if not runs:
        click.echo("there has been no bulk run yet; make a plan: acme-milter bulk plan -o plan.json")
        return
    columns = (
        Column("run"),
        Column("state"),
        Column("begun", spare=2),
        Column("active", right=True),
        Column("failed", right=True),
        Column("of", right=True),
        Column("what"),
    )
    rows = [
        (
            run["id"],
            run["state"],
            run["created_at"][:16].replace("T", " "),
            str(run["outcomes"]["active"]),
            str(run["outcomes"]["failed"]),
            str(run["total"]),
            run["description"],
        )
        for run in runs
    ]
    print_table(Console(soft_wrap=True), columns, rows)
