# SPDX-License-Identifier: GPL-3.0-or-later
"""`deliver passphrase`: what opens the files that were delivered, for whoever hands it on by another way."""

from typing import Any

import click

from acme_milter.cli.ask_worker import ask_worker
from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.exit_codes import ExitCode
from acme_milter.cli.view import print_document

SCHEMA = "acme-milter/deliver-passphrase/1"


@click.command()
@click.argument("address")
@click.option("--target", metavar="NAME", help="Only of one target, by its name.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def passphrase(context: click.Context, address: str, target: str | None, as_json: bool) -> None:
    """Show the passphrases of the files that were delivered for ADDRESS and its present person.

    Each time is noted in the audit trail. There is none where a target has put it where the policy says, or has handed
    it to a program.
    """
    config = load_config_or_exit(context)
    answer: dict[str, Any] = ask_worker(config, "passphrase", address=address, target=target)
    found = answer["passphrases"]
    if as_json:
        print_document({"schema": SCHEMA, "address": answer["address"], "passphrases": found})
    else:
        for one in found:
            click.echo(f"{one['target']} {one['format']}: {one['passphrase']}")
            click.echo(f"  {one['outcome'] or 'on its way once more'} (certificate {one['serial']})", err=True)
    if not found:
        name = answer["address"]
        click.echo(f"{name}: no passphrase is kept; look with: acme-milter deliver list {name}", err=True)
        context.exit(ExitCode.FAILED)
    if not as_json:
        click.echo("Send it by another way than the file.", err=True)
