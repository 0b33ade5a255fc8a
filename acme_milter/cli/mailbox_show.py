# SPDX-License-Identifier: GPL-3.0-or-later
"""`mailbox show` and `mailbox why`: one mailbox's story, and the short of it."""

from typing import Any

import click

from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.table import cell_width
from acme_milter.cli.view import ask_view, print_document

_ADDRESS = click.argument("address")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")


@click.command()
@_ADDRESS
@_JSON
@click.pass_context
def show(context: click.Context, address: str, as_json: bool) -> None:
    """Show all that happened to ADDRESS in one timeline: mails with their queue ids, orders, certificates, keys.

    Times are UTC. `grep QUEUE-ID /var/log/mail.log` shows Postfix's side of a line.
    """
    config = load_config_or_exit(context)
    document: dict[str, Any] = ask_view(context, config, "mailbox", address=address)
    if as_json:
        print_document(document)
        return
    click.echo(document["address"])
    for line in _head(document):
        click.echo(f"  {line}")
    entries = document["timeline"]
    if document["older_orders_left_out"]:
        click.echo(f"({document['older_orders_left_out']} older orders are left out)")
    wide = max((cell_width(entry["queue_id"] or "-") for entry in entries), default=0)
    for entry in entries:
        at = entry["at"][:19].replace("T", " ")
        mark = " (planned)" if entry["planned"] else ""
        click.echo(f"{at}  {entry['queue_id'] or '-':<{wide}}  {_plain(entry['text'])}{mark}")


def _head(document: dict[str, Any]) -> list[str]:
    lines = []
    source, person = document["source"], document["person_name"]
    if source is not None:
        whose = f" ({person})" if person else ""
        lines.append(f"source: {source}, person {document['principal']}{_plain(whose)}")
    policy = document["policy"]
    if policy is not None:
        group = "" if policy["group"] is None else f", group {policy['group'] + 1} of its domain"
        authorities = ", ".join(policy["authorities"])
        lines.append(f"policy: mode {policy['mode']}, authority {authorities}, key {policy['key']}{group}")
    certificate = document["certificate"]
    if certificate is not None:
        lines.append(f"certificate: {certificate['serial']}, valid until {certificate['not_after'][:10]}")
    keys = document["keys"]
    if keys["current"] is not None or keys["older"]:
        current = keys["current"]
        present = "none in use" if current is None else f"{current['algorithm']} of {current['created_at'][:10]}"
        older = ", ".join(key["created_at"][:10] for key in keys["older"])
        lines.append(f"keys: {present}" + (f", older ones of {older}" if older else ""))
    lines.append(_plain(document["why"]["text"]))
    if document["why"]["command"]:
        lines.append(f"next: {_plain(document['why']['command'])}")
    return lines


@click.command()
@_ADDRESS
@_JSON
@click.pass_context
def why(context: click.Context, address: str, as_json: bool) -> None:
    """Say in a paragraph why ADDRESS has a certificate or has none, and which command is next."""
    config = load_config_or_exit(context)
    document: dict[str, Any] = ask_view(context, config, "why", address=address)
    if as_json:
        print_document(document)
        return
    click.echo(_plain(document["text"]))
    if document["command"]:
        click.echo(f"next: {_plain(document['command'])}")


def _plain(text: str) -> str:
    """Names from sources and words of authorities in one line that commands no terminal."""
    return "".join(c if c.isprintable() else " " for c in text)
