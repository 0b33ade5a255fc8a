# SPDX-License-Identifier: GPL-3.0-or-later
"""`authority show`: one authority, and every account that we have or had there."""

from collections.abc import Iterator
from typing import Any

import click

from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.view import ask_view, print_document


@click.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def show(context: click.Context, name: str, as_json: bool) -> None:
    """Show the authority NAME: its accounts, the terms that were agreed to, how old each key is.

    NAME:staging is the staging service of NAME.
    """
    document: dict[str, Any] = ask_view(context, load_config_or_exit(context), "authority-show", authority=name)
    if as_json:
        print_document(document)
        return
    staging = "  (staging: what it issues counts for nothing)" if document["staging"] else ""
    click.echo(f"{document['authority']}{staging}")
    click.echo(f"  directory: {document['directory']}  preset: {document['preset']}  account: {document['account']}")
    if document["paused"] is not None:
        click.echo(f"  paused: {document['paused']['reason']}")
    if (health := document["health"])["last_error"] is not None:
        click.echo(f"  {health['state']} since {_day(health['since'] or health['failed_at'])}: {health['last_error']}")
    for account in document["accounts"]:
        for line in _lines(account):
            click.echo(f"  {line}")
    if not document["accounts"]:
        click.echo(f"  no account yet; one is made at the first order, or by: acme-milter authority register {name}")


def _lines(account: dict[str, Any]) -> Iterator[str]:
    whose = account["account"] or "everybody"
    yield f"account of {whose}: {account['url'] or 'not registered yet'}"
    if account["terms"] is not None:
        yield f"  terms {account['terms']} agreed to {_day(account['terms_agreed_at'])}"
    yield f"  key since {_day(account['key_since'])}"
    if account["deactivated_at"] is not None:
        yield f"  deactivated {_day(account['deactivated_at'])}"
    elif not account["in_use"]:
        yield "  not in use: it is at another directory"
    exchange = account["key_exchange"]
    if exchange is not None and exchange["waits_for"]:
        yield f"  its next key waits until {exchange['waits_for']} open challenges are answered"
    elif exchange is not None:
        yield "  its key is being exchanged"
    if account["last_error"] is not None:
        yield f"  the last exchange of its key: {account['last_error']}"


def _day(instant: str | None) -> str:
    return "at a time that is not known" if instant is None else f"{instant[:16].replace('T', ' ')} UTC"
