# SPDX-License-Identifier: GPL-3.0-or-later
"""`deliver withdraw`: have the worker take back what was delivered."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import click

from acme_milter.cli.addresses import addresses_of
from acme_milter.cli.ask_worker import ask_worker_in_parts
from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.confirm import confirm_count
from acme_milter.cli.ordering import exit_code
from acme_milter.cli.view import make_view, print_document

SCHEMA = "acme-milter/deliver-withdraw/1"
_WORDS = {
    "withdrawing": "being taken back from {targets}",
    "withdrawing-already": "being taken back from {targets} already; look with: acme-milter deliver list {address}",
    "by-hand": "noted as removed by hand from {targets}",
    "nothing-to-go": "nothing is to be taken back; have it taken back first: acme-milter deliver withdraw {address}",
    "nothing-there": "nothing is there; look with: acme-milter deliver list {address}",
}


@click.command()
@click.argument("addresses", nargs=-1, metavar="[ADDRESS…]")
@click.option("--gone", is_flag=True, help="Everywhere: what nobody uses any more and is still there.")
@click.option("--target", metavar="NAME", help="Only from one target, by its name.")
@click.option("--domain", metavar="DOMAIN", help="With --gone: only of one domain.")
@click.option("--by-hand", is_flag=True, help="Somebody has removed what was to go: note that.")
@click.option("--yes", is_flag=True, help="Do it to more than one without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def withdraw(
    context: click.Context,
    addresses: Sequence[str],
    gone: bool,
    target: str | None,
    domain: str | None,
    by_hand: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Take back what was delivered of ADDRESSES: of each certificate, in use or not, of mailboxes that have left, too.

    "-" reads addresses from standard input, one a line. --gone is for mailboxes that have left or are another person's,
    and for certificates whose revocation was asked for; without --target, it leaves out what its targets keep.
    """
    if gone == bool(addresses):
        raise click.UsageError("give either ADDRESSES or --gone")
    if domain is not None and not gone:
        raise click.UsageError("--domain is for --gone")
    if by_hand and gone:
        raise click.UsageError("--by-hand is for ADDRESSES")
    config = load_config_or_exit(context)
    if gone:
        document: dict[str, Any] = make_view(context, config, "delivery-unused", target=target, domain=domain)
        wanted = [row["address"] for row in document["mailboxes"]]
    else:
        wanted = [config.canonical(address) or address for address in addresses_of(addresses)]
    confirm_count(len(wanted), "take back what was delivered of", yes=yes)
    results = ask_worker_in_parts(config, "withdraw", "addresses", wanted, target=target, gone=gone, by_hand=by_hand)
    if as_json:
        print_document({"schema": SCHEMA, "results": list(results)})
    else:
        for result in results:
            words = _WORDS.get(result["outcome"], result["outcome"])
            click.echo(f"{result['address']}: {words.format(address=result['address'], targets=_named(result))}")
        if not results:
            click.echo("there is nothing to do", err=True)
    counts = Counter(result["outcome"] in _WORDS for result in results)
    context.exit(exit_code(counts[True], counts[False]))


def _named(result: dict[str, Any]) -> str:
    return ", ".join(result["targets"])
