# SPDX-License-Identifier: GPL-3.0-or-later
"""`bulk replace`: new certificates instead of those that an authority is about to revoke, or that should be."""

import tempfile
from datetime import datetime
from pathlib import Path

import click

from acme_milter.cli.bulk_options import known_authority, known_domains, moment, serials_in
from acme_milter.cli.bulk_plan import make, publish, write_plan
from acme_milter.cli.bulk_run import run_plan
from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.exit_codes import ExitCode

REASONS = ("unspecified", "key-compromise", "affiliation-changed", "superseded", "cessation-of-operation")


@click.command()
@click.option(
    "--issued-before", type=moment, metavar="DATE", help="Certificates whose validity begins before this date."
)
@click.option("--ca", "authority", metavar="NAME", help="Certificates of this authority.")
@click.option("--serials", metavar="FILE|-", help="Certificates with one of these serials, one a line.")
@click.option("--domain", "domains", multiple=True, metavar="DOMAIN", help="Only of this domain; may be repeated.")
@click.option("--revoke", type=click.Choice(REASONS), help="Revoke each old one once its successor is active.")
@click.option("--output", "-o", metavar="PLAN", help="The plan file to write; - for standard output.")
@click.option("--run", "run_it", is_flag=True, help="Run the plan at once.")
@click.option("--detach", is_flag=True, help="With --run: do not watch.")
@click.option("--yes", is_flag=True, help="With --run: do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def replace(
    context: click.Context,
    issued_before: datetime | None,
    authority: str | None,
    serials: str | None,
    domains: tuple[str, ...],
    revoke: str | None,
    output: str | None,
    run_it: bool,
    detach: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Plan new certificates in place of those that are meant; with --run have them ordered at once.

    The old certificate is superseded when the new one is active, and with --revoke revoked after that, never before.
    With --revoke key-compromise every key is new, whatever the policy says.
    """
    from acme_milter.report.plan import Selection

    if issued_before is None and serials is None:
        raise click.UsageError("say which certificates: --issued-before DATE, --serials FILE, or both")
    if output == "-" and run_it:
        raise click.UsageError("--run needs the plan in a file")
    config = load_config_or_exit(context)
    selection = Selection(
        domains=known_domains(config, domains),
        authority=known_authority(config, authority),
        issued_before=issued_before,
        serials=None if serials is None else serials_in(serials),
    )
    made = make(config, selection, replace=True, revoke=revoke)
    if not run_it:
        publish(context, made, output, as_json=as_json)
        return
    with tempfile.TemporaryDirectory() as scratch:
        path = output or str(Path(scratch) / "plan.json")
        if as_json:
            write_plan(made, path)
        else:
            publish(context, made, path, runs=True)
        if not made.items:
            context.exit(ExitCode.OK)
        run_plan(context, Path(path), limit=None, yes=yes, detach=detach, as_json=as_json)
