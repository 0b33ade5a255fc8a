# SPDX-License-Identifier: GPL-3.0-or-later
"""`deliver run` and `deliver retry`: have the worker deliver what is missing, or try again what has failed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import click

from acme_milter.cli.addresses import addresses_of
from acme_milter.cli.ask_worker import ask_worker_in_parts
from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.confirm import confirm_count
from acme_milter.cli.ordering import exit_code
from acme_milter.cli.view import make_view, print_document

RUN_SCHEMA = "acme-milter/deliver-run/1"
RETRY_SCHEMA = "acme-milter/deliver-retry/1"
_WORDS = {
    "asked": "on its way to {targets}",
    "retrying": "tried again now: {targets}",
    "nothing-missing": "nothing is missing; to deliver it once more: acme-milter deliver run {address} --again",
    "under-way": "on its way to {targets} already; look with: acme-milter deliver list {address}",
    "has-failed": "has failed, and waits for you: {targets}; why: acme-milter deliver list {address};"
    " once that is mended: acme-milter deliver retry {address}",
    "key-destroyed": "{withheld}; a new certificate comes with a new key: acme-milter cert renew {address}",
    "key-elsewhere": "{withheld}",
    "nothing-failed": "nothing has failed; look with: acme-milter deliver list {address}",
    "not-managed": "not a managed mailbox; see why with: acme-milter mailbox why {address}",
    "no-certificate": "has no certificate in use; order one with: acme-milter enroll {address}",
    "no-target": "its policy names no such target; look with: acme-milter config explain {address}",
}
_WELL = frozenset({"asked", "retrying", "under-way", "has-failed", "nothing-missing", "nothing-failed"})

_ADDRESSES = click.argument("addresses", nargs=-1, metavar="[ADDRESS…]")
_TARGET = click.option("--target", metavar="NAME", help="Only to one target, by its name.")
_YES = click.option("--yes", is_flag=True, help="Do it to more than one without asking.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")


@click.command()
@_ADDRESSES
@click.option("--missing", is_flag=True, help="For every mailbox that lacks something, after a change of policy.")
@click.option("--domain", metavar="DOMAIN", help="With --missing: only of one domain.")
@_TARGET
@click.option("--again", is_flag=True, help="Also what has been delivered already.")
@_YES
@_JSON
@click.pass_context
def run(
    context: click.Context,
    addresses: Sequence[str],
    missing: bool,
    domain: str | None,
    target: str | None,
    again: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Deliver the certificates in use of ADDRESSES to those targets of their policy where they are not yet.

    "-" reads addresses from standard input, one a line. What has failed is not touched, see `deliver retry`. Exit
    status 0, or 3 when some and 1 when all of the mailboxes have nothing that could be delivered.
    """
    if missing == bool(addresses):
        raise click.UsageError("give either ADDRESSES or --missing")
    if missing and again:
        raise click.UsageError("--again is for ADDRESSES")
    if domain is not None and not missing:
        raise click.UsageError("--domain is for --missing")
    config = load_config_or_exit(context)
    if missing:
        document: dict[str, Any] = make_view(context, config, "delivery-missing", target=target, domain=domain)
        wanted = [row["address"] for row in document["mailboxes"]]
    else:
        wanted = [config.canonical(address) or address for address in addresses_of(addresses)]
    confirm_count(len(wanted), "deliver the certificates of", yes=yes)
    results = ask_worker_in_parts(config, "deliver", "addresses", wanted, target=target, again=again)
    _end(context, results, RUN_SCHEMA, as_json=as_json)


@click.command()
@_ADDRESSES
@click.option("--all-failed", is_flag=True, help="For every mailbox with a failed delivery.")
@_TARGET
@_YES
@_JSON
@click.pass_context
def retry(
    context: click.Context, addresses: Sequence[str], all_failed: bool, target: str | None, yes: bool, as_json: bool
) -> None:
    """Try failed deliveries of ADDRESSES again now: those that wait for a person, and those that wait for their time.

    "-" reads addresses from standard input, one a line.
    """
    if all_failed == bool(addresses):
        raise click.UsageError("give either ADDRESSES or --all-failed")
    config = load_config_or_exit(context)
    if all_failed:
        document: dict[str, Any] = make_view(context, config, "delivery-list", state="not-there", target=target)
        wanted = list(dict.fromkeys(row["address"] for row in document["deliveries"]))
    else:
        wanted = [config.canonical(address) or address for address in addresses_of(addresses)]
    confirm_count(len(wanted), "try again the deliveries of", yes=yes)
    results = ask_worker_in_parts(config, "retry-delivery", "addresses", wanted, target=target)
    _end(context, results, RETRY_SCHEMA, as_json=as_json)


def _end(context: click.Context, results: Sequence[Mapping[str, Any]], schema: str, *, as_json: bool) -> None:
    if as_json:
        print_document({"schema": schema, "results": list(results)})
    else:
        for result in results:
            words, withheld = _WORDS.get(result["outcome"], result["outcome"]), _withheld(result)
            if withheld and "{withheld}" not in words:
                words += "; {withheld}"
            said = words.format(address=result["address"], targets=", ".join(result["targets"]), withheld=withheld)
            click.echo(f"{result['address']}: {said}", err=result["outcome"] not in _WELL)
        if not results:
            click.echo("there is nothing to do", err=True)
    counts = Counter(result["outcome"] in _WELL for result in results)
    context.exit(exit_code(counts[True], counts[False]))


def _withheld(result: Mapping[str, Any]) -> str:
    """Which targets get nothing, and why."""
    reasons: dict[str, list[str]] = {}
    for title, why in sorted(result.get("withheld", {}).items()):
        reasons.setdefault(why, []).append(title)
    return "; ".join(f"not to {', '.join(titles)}: {why}" for why, titles in reasons.items())
