# SPDX-License-Identifier: GPL-3.0-or-later
"""`cert revoke`: have certificates revoked by their authority, by mailbox or by serial."""

from collections import Counter
from collections.abc import Sequence

import click

from acme_milter.cli.addresses import addresses_of
from acme_milter.cli.ask_worker import ask_worker_in_parts
from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.confirm import confirm_count
from acme_milter.cli.ordering import exit_code
from acme_milter.cli.view import print_document

SCHEMA = "acme-milter/cert-revoke/1"
REASONS = (
    "unspecified",
    "key-compromise",
    "affiliation-changed",
    "superseded",
    "cessation-of-operation",
)
"""Of RFC 5280 §5.3.1, those that a subscriber may give."""
_WORDS = {
    "asked": "will be revoked",
    "already-revoked": "is revoked already",
    "expired": "has expired; nothing to revoke",
    "unknown": "no certificate; look with: acme-milter cert list --state all",
}
_DONE = frozenset({"asked", "already-revoked"})


@click.command()
@click.argument("wanted", nargs=-1, required=True, metavar="ADDRESS|SERIAL…")
@click.option("--reason", type=click.Choice(REASONS), required=True, help="What the authority is told (RFC 5280).")
@click.option("--yes", is_flag=True, help="Do it to more than one without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def revoke(context: click.Context, wanted: Sequence[str], reason: str, yes: bool, as_json: bool) -> None:
    """Have certificates revoked: one by its SERIAL, all valid ones of a mailbox's present person by its ADDRESS.

    The worker asks the authority and tries again until it is done; `mailbox show` tells how it went. The key stays,
    for old mail. "-" reads standard input, one a line. Exit status 0, or 3 when some and 1 when all are not there.
    """
    config = load_config_or_exit(context)
    named = addresses_of(wanted)
    confirm_count(len(named), "revoke the certificates of", yes=yes)
    addresses = [one for one in named if "@" in one]
    serials = [one for one in named if "@" not in one]
    # The configured spelling, where the configuration itself lists the mailbox.
    spelled = [config.canonical(address) or address for address in addresses]
    results = []
    if spelled:
        results += ask_worker_in_parts(config, "revoke", "addresses", spelled, reason=reason)
    if serials:
        results += ask_worker_in_parts(config, "revoke", "serials", serials, reason=reason)
    if as_json:
        print_document({"schema": SCHEMA, "results": results})
    else:
        for result in results:
            name = " ".join(filter(None, [result["address"], result["serial"]])) or result["wanted"]
            bad = result["outcome"] not in _DONE
            click.echo(f"{name}: {_WORDS.get(result['outcome'], result['outcome'])}", err=bad)
    counts = Counter(result["outcome"] in _DONE for result in results)
    context.exit(exit_code(counts[True], counts[False]))
