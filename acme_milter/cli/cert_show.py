# SPDX-License-Identifier: GPL-3.0-or-later
"""`cert show`: one certificate, by its serial or its mailbox."""

from typing import Any

import click

from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.view import ask_view, print_document

_LINES = (
    ("address", "mailbox"),
    ("principal", "person"),
    ("authority", "authority"),
    ("state", "state"),
    ("serial", "serial"),
    ("issuer", "issuer"),
    ("not_before", "not before"),
    ("not_after", "not after"),
    ("key", "key"),
    ("key_not_here", "no private key"),
    ("renewal_due_at", "renewal"),
    ("revocation_asked_at", "revocation asked for"),
    ("revoked_at", "revoked"),
    ("revocation_error", "not revoked"),
)


@click.command()
@click.argument("wanted", metavar="SERIAL|ADDRESS")
@click.option("--pem", is_flag=True, help="Print the certificate and its chain as PEM, and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def show(context: click.Context, wanted: str, pem: bool, as_json: bool) -> None:
    """Show the certificate with this serial (hexadecimal, with or without colons), or a mailbox's present one."""
    config = load_config_or_exit(context)
    document: dict[str, Any] = ask_view(context, config, "certificate", wanted=wanted)
    if as_json:
        print_document(document)
    elif pem:
        click.echo(document["chain_pem"], nl=False)
    else:
        for key, name in _LINES:
            if document[key]:
                click.echo(f"{name}: {document[key]}")
