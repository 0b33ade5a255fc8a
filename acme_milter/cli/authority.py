# SPDX-License-Identifier: GPL-3.0-or-later
"""`authority`: what is used of each certificate authority, our accounts there, and letting one rest."""

from typing import Any

import click

from acme_milter.cli.ask_worker import ask_worker
from acme_milter.cli.authority_accounts import deactivate, register, rollover
from acme_milter.cli.authority_show import show
from acme_milter.cli.authority_test import test
from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.exit_codes import ExitCode
from acme_milter.cli.table import Column, show_table
from acme_milter.cli.view import ask_view, print_document

COLUMNS = (
    Column("authority"),
    Column("in flight", right=True),
    Column("orders/h", right=True),
    Column("background/h", spare=2, right=True),
    Column("failed/h", spare=3, right=True),
    Column("certificates", spare=4, right=True),
    Column("renewals 7 d", spare=1, right=True),
    Column("remark"),
)
PAUSE_SCHEMA = "acme-milter/authority-pause/1"


@click.group()
def authority() -> None:
    """Look at certificate authorities, at accounts there, pause and resume them.

    A paused authority gets no new orders; those that are open go on to their end.
    """


authority.add_command(show)
authority.add_command(register)
authority.add_command(rollover)
authority.add_command(deactivate)
authority.add_command(test)


@authority.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def list_authorities(context: click.Context, as_json: bool) -> None:
    """List each authority's budgets, used and allowed, its pause, and the renewals of the next seven days."""
    document: dict[str, Any] = ask_view(context, load_config_or_exit(context), "authorities")
    if as_json:
        print_document(document)
    elif document["authorities"]:
        show_table(COLUMNS, [_cells(one) for one in document["authorities"]])
    else:
        click.echo("no authority is configured")


@authority.command()
@click.argument("name")
@click.option("--reason", default="", metavar="TEXT", help="For whoever asks later why nothing happens.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def pause(context: click.Context, name: str, reason: str, as_json: bool) -> None:
    """Begin nothing new with the authority NAME until it is resumed."""
    answer = ask_worker(load_config_or_exit(context), "pause-authority", authority=name, reason=reason)
    _say(answer, as_json=as_json)


@authority.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def resume(context: click.Context, name: str, as_json: bool) -> None:
    """End the pause of the authority NAME, whoever asked for it. Exit status 1 when it was not paused."""
    answer = ask_worker(load_config_or_exit(context), "resume-authority", authority=name)
    _say(answer, as_json=as_json)
    if answer["outcome"] != "resumed":
        context.exit(ExitCode.FAILED)


def _say(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_document({"schema": PAUSE_SCHEMA, **answer})
    else:
        click.echo(f"{answer['authority']}: {answer['outcome']}")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    budgets = row["budgets"]
    return (
        row["authority"],
        _used(budgets["in_flight"]),
        _used(budgets["orders_per_hour"]),
        _used(budgets["background_per_hour"]),
        _used(budgets["failed_per_hour"]),
        str(row["renewals"]["certificates"]),
        str(sum(list(row["renewals"]["by_day"].values())[:7])),
        _remark(row),
    )


def _used(budget: dict[str, Any]) -> str:
    return f"{budget['used']}" if budget["limit"] is None else f"{budget['used']}/{budget['limit']}"


def _remark(row: dict[str, Any]) -> str:
    said = []
    if row["paused"] is not None:
        until = row["paused"]["until"]
        ends = (
            f"until {until[:16].replace('T', ' ')} UTC"
            if until
            else f"until: acme-milter authority resume {row['authority']}"
        )
        said.append(f"paused {ends} ({row['paused']['reason']})")
    if (health := row["health"])["since"] is not None:
        said.append(f"{health['state']} since {health['since'][:16].replace('T', ' ')} UTC ({health['last_error']})")
    if row["held"] is not None:
        said.append(
            f"renewals held: {row['held']}; if that is right, run: acme-milter hold release renewals:{row['authority']}"
        )
    if row["staging"]:
        said.append("staging")
    if row["keys_to_exchange"]:
        said.append("nothing begins until its account's next key is in use")
    if not row["accounts"]:
        said.append("no account yet")
    return "; ".join(said)
