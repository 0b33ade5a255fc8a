# SPDX-License-Identifier: GPL-3.0-or-later
"""`enroll`: open enrollments, and with --wait follow them to their end."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from acme_milter.cli.addresses import addresses_of
from acme_milter.cli.ask_worker import ask_worker_in_parts
from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.ordering import end_ordering, follow

if TYPE_CHECKING:
    from acme_milter.config.schema import Config

__all__ = ["ask_for", "enroll", "follow"]


@click.command()
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS…")
@click.option("--wait", is_flag=True, help="Show progress; end when each one is active or has failed.")
@click.option(
    "--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="With --wait: give up waiting after this."
)
@click.option("--again", is_flag=True, help="Order even where a certificate is active.")
@click.option("--staging", is_flag=True, help="Rehearse at its authority's staging service; nothing else changes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def enroll(
    context: click.Context,
    addresses: Sequence[str],
    wait: bool,
    timeout: float | None,
    again: bool,
    staging: bool,
    as_json: bool,
) -> None:
    """Order a certificate for each ADDRESS; "-" reads addresses from standard input, one a line.

    They are ordered by the running worker, and go on whether or not somebody waits. Exit status 0 when all were
    opened (with --wait: are active), 3 when some, 1 when none, 75 when it took longer than --timeout.
    """
    config = load_config_or_exit(context)
    results = ask_for(config, addresses_of(addresses), again=again, staging=staging)
    end_ordering(context, config, results, schema="acme-milter/enroll/1", as_json=as_json, wait=wait, timeout=timeout)


def ask_for(config: "Config", addresses: Sequence[str], *, again: bool, staging: bool = False) -> list[dict[str, Any]]:
    """Ask the running worker for enrollments; exits 75 when none is running."""
    return ask_worker_in_parts(config, "enroll", "addresses", addresses, again=again, staging=staging)
