# SPDX-License-Identifier: GPL-3.0-or-later
"""`bulk simulate`: the arithmetic of the day on which an authority must revoke everything."""

from datetime import datetime, timedelta
from typing import Any, cast

import click

from acme_milter.cli.bulk_options import known_authority, moment
from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.view import make_view, print_document


@click.command()
@click.option("--when", type=moment, metavar="DATE", required=True, help="The day.")
@click.option("--ca", "authority", metavar="NAME", help="Only this authority.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def simulate(context: click.Context, when: datetime, authority: str | None, as_json: bool) -> None:
    """Say how long replacing every certificate of an authority would take on that day, by the limits of today."""
    config = load_config_or_exit(context)
    known_authority(config, authority)
    document = make_view(context, config, "bulk-simulate", when=when.isoformat(), authority=authority)
    if as_json:
        print_document(document)
        return
    for one in cast("list[dict[str, Any]]", document["authorities"]):
        _tell(one, when)


def _tell(one: dict[str, Any], when: datetime) -> None:
    from acme_milter.report.pace import in_words

    click.echo(
        f"authority {one['authority']} on {when:%Y-%m-%d}: {one['certificates']} certificates alive,"
        f" of {one['mailboxes']} mailboxes"
    )
    if one["only_to_revoke"]:
        click.echo(f"  {one['only_to_revoke']} of them only to revoke: nobody renews them with it any more")
    takes = in_words(timedelta(seconds=one["takes_seconds"]))
    mails = "" if one["mails"] == one["to_replace"] else f", with {one['mails']} challenge mails,"
    click.echo(f"  replacing {one['to_replace']}{mails} would take {takes} ({one['bound_by']})")
    if "per_hour" in one["bound_by"]:
        click.echo(f"  it rests on {one['rests_on']}")
    for hour in one["hours"]:
        click.echo(f"  after {hour['hour']:>3} h: {hour['replaced']:>7} replaced")
    for needed in one["needed"]:
        within = in_words(timedelta(seconds=needed["within_seconds"]))
        verdict = "in time" if needed["in_time"] else "TOO LATE"
        click.echo(
            f"  within {within}: {verdict}; needs in_flight {needed['in_flight']}"
            f", {needed['per_hour']} orders and {needed['mails_per_hour']} challenge mails an hour"
        )
