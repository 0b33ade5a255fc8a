# SPDX-License-Identifier: GPL-3.0-or-later
"""`cert request`: a certificate request that a mailbox has made itself, with a key that is never here."""

import base64
from pathlib import Path
from typing import TYPE_CHECKING

import click

from acme_milter.cli.ask_worker import ask_worker
from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.view import print_document

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = "acme-milter/cert-request/1"
_WORDS = {
    "waited": "the order that waited for it goes on",
    "opened": "an order was opened",
}
_KINDS = {"dual": "", "sign": ", to sign", "encrypt": ", to encrypt"}


@click.command()
@click.argument("address")
@click.option(
    "--csr",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="The request, PKCS#10 in PEM or DER.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def request(context: click.Context, address: str, csr: Path, as_json: bool) -> None:
    """Have the running worker order ADDRESS's certificate with a request that was made elsewhere (custody: csr).

    Its subjectAltName must be the mailbox's address and nothing else, its key RSA of 2048 to 4096 bits, P-256 or
    P-384. Renewals want another one, unless renewal.key is reuse. `export --format chain` gives the certificate.
    """
    config = load_config_or_exit(context)
    content = base64.b64encode(csr.read_bytes()).decode("ascii")
    answer: Mapping[str, str] = ask_worker(
        config, "certificate-request", address=config.canonical(address) or address, request=content
    )
    if as_json:
        print_document({"schema": SCHEMA, **answer})
    else:
        click.echo(f"{answer['address']}: request taken{_KINDS[answer['usage']]}; {_WORDS[answer['outcome']]}")
