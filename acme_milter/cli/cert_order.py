# SPDX-License-Identifier: GPL-3.0-or-later
"""`cert issue` and `cert renew`: orders that a person asks for; the background pace does not hold them back."""

from collections.abc import Sequence

import click

from acme_milter.cli.addresses import addresses_of
from acme_milter.cli.ask_worker import ask_worker_in_parts
from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.confirm import confirm_count
from acme_milter.cli.ordering import end_ordering

_ADDRESSES = click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS…")
_WAIT = click.option("--wait", is_flag=True, help="Show progress; end when each one is active or has failed.")
_TIMEOUT = click.option(
    "--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="With --wait: give up waiting after this."
)
_YES = click.option("--yes", is_flag=True, help="Do it to more than one mailbox without asking.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")


@click.command()
@_ADDRESSES
@click.option("--again", is_flag=True, help="Order even where a certificate is active.")
@click.option("--staging", is_flag=True, help="Rehearse at its authority's staging service; nothing else changes.")
@_WAIT
@_TIMEOUT
@_YES
@_JSON
@click.pass_context
def issue(
    context: click.Context,
    addresses: Sequence[str],
    again: bool,
    staging: bool,
    wait: bool,
    timeout: float | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Order a certificate for each ADDRESS; "-" reads addresses from standard input, one a line.

    Exit status 0 when all were opened (with --wait: are active), 3 when some, 1 when none, 75 after --timeout.
    """
    config = load_config_or_exit(context)
    wanted = addresses_of(addresses)
    confirm_count(len(wanted), "order certificates for", yes=yes)
    results = ask_worker_in_parts(config, "enroll", "addresses", wanted, again=again, staging=staging)
    schema = "acme-milter/cert-issue/1"
    end_ordering(context, config, results, schema=schema, as_json=as_json, wait=wait, timeout=timeout)


@click.command()
@_ADDRESSES
@_WAIT
@_TIMEOUT
@_YES
@_JSON
@click.pass_context
def renew(
    context: click.Context, addresses: Sequence[str], wait: bool, timeout: float | None, yes: bool, as_json: bool
) -> None:
    """Order the successor of each ADDRESS's certificate now, whatever its plan; "-" reads standard input.

    Exit status 0 when all were opened (with --wait: are active), 3 when some, 1 when none, 75 after --timeout.
    """
    config = load_config_or_exit(context)
    wanted = addresses_of(addresses)
    confirm_count(len(wanted), "renew the certificates of", yes=yes)
    results = ask_worker_in_parts(config, "renew", "addresses", wanted)
    schema = "acme-milter/cert-renew/1"
    end_ordering(context, config, results, schema=schema, as_json=as_json, wait=wait, timeout=timeout)
