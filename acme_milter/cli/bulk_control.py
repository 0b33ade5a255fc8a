# SPDX-License-Identifier: GPL-3.0-or-later
"""`bulk pause`, `resume`, `retry`, `cancel`: what a person may do to a run."""

from typing import cast

import click

from acme_milter.cli.ask_worker import ask_worker
from acme_milter.cli.bulk_options import command_line
from acme_milter.cli.bulk_view import watch_run
from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.confirm import confirm_count
from acme_milter.cli.exit_codes import ExitCode
from acme_milter.cli.view import ask_view

_run = click.argument("run", required=False, metavar="[RUN]")
_detach = click.option("--detach", is_flag=True, help="Do not watch; the worker goes on by itself.")


@click.command()
@_run
@click.pass_context
def pause(context: click.Context, run: str | None) -> None:
    """Open nothing more of RUN (default: the newest) for now; what is open goes to its end."""
    answer = ask_worker(load_config_or_exit(context), "bulk-pause", run=run)
    click.echo(f"run {answer['run']} is paused; go on with: {command_line(context, 'bulk', 'resume', answer['run'])}")


@click.command()
@_run
@_detach
@click.pass_context
def resume(context: click.Context, run: str | None, detach: bool) -> None:
    """Go on with RUN (default: the newest), whether it was paused or has stopped by itself, and watch it."""
    config = load_config_or_exit(context)
    answer = ask_worker(config, "bulk-resume", run=run)
    if detach:
        click.echo(f"run {answer['run']} goes on")
        context.exit(ExitCode.OK)
    watch_run(context, config, answer["run"], as_json=False)


@click.command()
@_run
@click.option("--cause", metavar="TEXT", help="Only those whose failure's reason holds this text.")
@_detach
@click.pass_context
def retry(context: click.Context, run: str | None, cause: str | None, detach: bool) -> None:
    """Order again what failed in RUN (default: the newest), and watch it."""
    config = load_config_or_exit(context)
    answer = ask_worker(config, "bulk-retry", run=run, cause=cause)
    if not answer["again"]:
        click.echo(f"run {answer['run']}: nothing has failed{' for that cause' if cause else ''}", err=True)
        context.exit(ExitCode.OK)
    click.echo(f"run {answer['run']}: {answer['again']} mailboxes are ordered again")
    if detach:
        context.exit(ExitCode.OK)
    watch_run(context, config, answer["run"], as_json=False)


@click.command()
@_run
@click.option("--yes", is_flag=True, help="Do not ask, however many mailboxes still wait.")
@click.pass_context
def cancel(context: click.Context, run: str | None, yes: bool) -> None:
    """Open nothing more of RUN (default: the newest), ever; its mailboxes are free for another run."""
    config = load_config_or_exit(context)
    status = ask_view(context, config, "bulk-status", run=run)
    outcomes = cast("dict[str, int]", status["outcomes"])
    confirm_count(outcomes["waiting"], "give up ordering for", yes=yes)
    answer = ask_worker(config, "bulk-cancel", run=cast("dict[str, str]", status["run"])["id"])
    click.echo(f"run {answer['run']} is cancelled; what was open goes to its end")
