# SPDX-License-Identifier: GPL-3.0-or-later
"""`authority register`, `rollover` and `deactivate`: what a person does with the accounts at an authority."""

from typing import Any

import click

from acme_milter.cli.ask_worker import ask_worker
from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.confirm import confirm
from acme_milter.cli.view import print_document

PATIENCE = 180.0
"""Seconds: an authority may take its time, and is asked several things."""

_NAME = click.argument("name")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
_ACCOUNT = click.option("--account", metavar="WHOSE", help="Whose account: a domain or a mailbox, by the key account.")


@click.command()
@_NAME
@_ACCOUNT
@click.option("--agree", is_flag=True, help="Agree to the terms that are in force now; read them first.")
@click.option("--again", is_flag=True, help="Also where an earlier account was deactivated.")
@_JSON
@click.pass_context
def register(context: click.Context, name: str, account: str | None, agree: bool, again: bool, as_json: bool) -> None:
    """Register accounts at the authority NAME before the first order needs them.

    NAME:staging is the staging service of NAME.
    """
    answer = _ask(context, "register-account", name, account=account, agree=agree, again=again)
    _tell(answer, "acme-milter/authority-register/1", as_json=as_json)


@click.command()
@_NAME
@_ACCOUNT
@_JSON
@click.pass_context
def rollover(context: click.Context, name: str, account: str | None, as_json: bool) -> None:
    """Exchange the account keys at the authority NAME for new ones.

    A key is exchanged as soon as no challenge of its account is open; until then nothing new begins with the
    authority. See how far that is with: acme-milter authority show NAME

    Asked again, it has an exchange that has failed tried at once.
    """
    answer = _ask(context, "rollover-accounts", name, account=account)
    _tell(answer, "acme-milter/authority-rollover/1", as_json=as_json)


@click.command()
@_NAME
@_ACCOUNT
@click.option("--all", "everyone", is_flag=True, help="Every account there, where nobody's is named.")
@click.option("--yes", is_flag=True, help="Do it without asking.")
@_JSON
@click.pass_context
def deactivate(
    context: click.Context, name: str, account: str | None, everyone: bool, yes: bool, as_json: bool
) -> None:
    """Close accounts at the authority NAME for ever.

    Their open orders end. Certificates stay valid, but the authority may refuse to revoke them afterwards. Nothing is
    ordered with NAME for those who had the account before another one is registered.
    """
    whose = f" of {account}" if account else "s" if everyone else ""
    confirm(f"close the account{whose} at {name} for ever", yes=yes)
    answer = _ask(context, "deactivate-accounts", name, account=account, all=everyone)
    _tell(answer, "acme-milter/authority-deactivate/1", as_json=as_json)


def _ask(context: click.Context, call: str, name: str, **arguments: object) -> dict[str, Any]:
    return ask_worker(load_config_or_exit(context), call, patience=PATIENCE, authority=name, **arguments)


def _tell(answer: dict[str, Any], schema: str, *, as_json: bool) -> None:
    if as_json:
        print_document({"schema": schema, **answer})
        return
    for row in answer["accounts"]:
        of = f" ({row['account']})" if row["account"] else ""
        click.echo(f"{answer['authority']}{of}: {row['outcome']}  {row['url']}{_remark(row)}")


def _remark(row: dict[str, Any]) -> str:
    if row.get("waits_for"):
        return f"; waits until {row['waits_for']} open challenges are answered"
    if row.get("cancelled"):
        return f"; {row['cancelled']} open orders ended"
    if row.get("ordered_anew"):
        return f"; open orders that are made anew with the next account: {row['ordered_anew']}"
    if row["outcome"] in {"registered", "agreed"} and row["terms"]:
        return f"; terms agreed to: {row['terms']}"
    return ""
