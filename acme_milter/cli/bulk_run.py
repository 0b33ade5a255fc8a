# SPDX-License-Identifier: GPL-3.0-or-later
"""`bulk run`: hand a plan to the worker and watch it."""

import secrets
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acme_milter.cli.ask_worker import ask_worker
from acme_milter.cli.bulk_options import command_line, end
from acme_milter.cli.bulk_view import watch_run
from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.confirm import confirm_count
from acme_milter.cli.exit_codes import ExitCode
from acme_milter.cli.view import print_document

if TYPE_CHECKING:
    from acme_milter.config.schema import Config
    from acme_milter.report.plan_file import PlanFile

OLDEST = timedelta(days=7)
"""A plan of last week is about another organization."""

AT_ONCE = 500
"""Mailboxes in one request, which is one transaction of the worker."""


@click.command()
@click.argument("plan", type=click.Path(path_type=Path), metavar="PLAN")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Take only the first N that can be ordered now.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--detach", is_flag=True, help="Do not watch; the worker goes on by itself.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def run(context: click.Context, plan: Path, limit: int | None, yes: bool, detach: bool, as_json: bool) -> None:
    """Have the running worker order what PLAN says, and watch; Ctrl-C pauses the run.

    Each mailbox is looked at again when its turn comes. Exit status 0 when none has failed, 3 when some, 1 when all,
    75 when the run was paused.
    """
    run_plan(context, plan, limit=limit, yes=yes, detach=detach, as_json=as_json)


def run_plan(context: click.Context, path: Path, *, limit: int | None, yes: bool, detach: bool, as_json: bool) -> None:
    """Check the plan file, ask, send it, watch it; ends the command."""
    from acme_milter.report.plan_file import PlanFault, read

    config = load_config_or_exit(context)
    try:
        plan = read(path)
    except PlanFault as fault:
        end(str(fault))
    _check_age(context, path, plan)
    if plan.configuration != str(config.path):
        click.echo(f"{path}: was made with {plan.configuration}, and is run with {config.path}", err=True)
    number = len(plan.items) if limit is None else min(limit, len(plan.items))
    if not number:
        click.echo(f"{path}: no mailbox stands in it, so there is nothing to order", err=True)
        context.exit(ExitCode.OK)
    confirm_count(number, "ordering certificates for", yes=yes)
    run_id, answer = _send(config, plan, limit)
    for reason, count in answer["passed_over"].items():
        click.echo(f"passed over, {count}: {reason}", err=True)
    if not answer["taken"]:
        click.echo("nothing of this plan can be ordered now", err=True)
        context.exit(ExitCode.OK)
    if detach:
        if as_json:
            print_document({"schema": "acme-milter/bulk-run/1", "run": run_id, "mailboxes": answer["taken"]})
        else:
            click.echo(f"run {run_id}: {answer['taken']} mailboxes; watch it with:")
            click.echo(f"  {command_line(context, 'bulk', 'status', run_id, '--watch')}")
        context.exit(ExitCode.OK)
    watch_run(context, config, run_id, as_json=as_json)


def _check_age(context: click.Context, path: Path, plan: "PlanFile") -> None:
    from acme_milter.clock import Clock

    age = Clock().now() - plan.made_at
    if age > OLDEST:
        again = command_line(context, "bulk", "plan" if plan.kind.value == "issue" else "replace", "…", "-o", path)
        end(f"{path}: this plan was made {age.days} days ago ({plan.description}); make it anew: {again}")
    if age < -timedelta(minutes=5):
        end(f"{path}: this plan was made at {plan.made_at:%Y-%m-%d %H:%M} UTC, which is yet to come; look at the clock")


def _send(config: "Config", plan: "PlanFile", limit: int | None) -> tuple[str, dict[str, Any]]:
    """In parts; the run begins with the last one. Returns its id and what was taken."""
    from acme_milter.clock import Clock
    from acme_milter.report.plan_file import REASONS

    run_id = f"{Clock().now():%Y%m%d}-{secrets.token_hex(3)}"
    passed_over: dict[str, int] = {}
    taken = 0
    for start in range(0, len(plan.items), AT_ONCE):
        part = plan.items[start : start + AT_ONCE]
        answer = ask_worker(
            config,
            "bulk-open",
            run=run_id,
            kind=plan.kind.value,
            description=plan.description,
            revoke=None if plan.revoke is None else int(REASONS[plan.revoke]),
            items=[
                [item.address, item.authority, item.principal, item.replaces_id, item.also_replaces_id] for item in part
            ],
            start=start,
            limit=limit,
            last=False,
        )
        taken = answer["taken"]
        for reason, count in answer["passed_over"].items():
            passed_over[reason] = passed_over.get(reason, 0) + count
        if sys.stderr.isatty() and len(plan.items) > AT_ONCE:
            click.echo(f"\r{start + len(part)}/{len(plan.items)} handed over", nl=False, err=True)
        if limit is not None and taken >= limit:
            break
    if sys.stderr.isatty() and len(plan.items) > AT_ONCE:
        click.echo("", err=True)
    ask_worker(config, "bulk-open", run=run_id, kind=plan.kind.value, items=[], start=0, limit=limit, last=True)
    return run_id, {"taken": taken, "passed_over": passed_over}
