# SPDX-License-Identifier: GPL-3.0-or-later
"""`bulk`: the commands that plan and run orders for many mailboxes, each imported when it is asked for."""

import click

from acme_milter.cli.lazy import LazyGroup

COMMANDS = {
    "plan": ("acme_milter.cli.bulk_plan:plan", "Write down who would get a certificate, and order nothing."),
    "replace": ("acme_milter.cli.bulk_replace:replace", "Plan the replacement of certificates, or do it at once."),
    "run": ("acme_milter.cli.bulk_run:run", "Have the worker order what a plan says."),
    "status": ("acme_milter.cli.bulk_status:status", "Show how a run is doing."),
    "list": ("acme_milter.cli.bulk_status:list_runs", "List the runs."),
    "pause": ("acme_milter.cli.bulk_control:pause", "Open nothing more of a run for now."),
    "resume": ("acme_milter.cli.bulk_control:resume", "Go on with a run that was paused or has stopped."),
    "retry": ("acme_milter.cli.bulk_control:retry", "Order again what failed in a run."),
    "cancel": ("acme_milter.cli.bulk_control:cancel", "Open nothing more of a run, ever."),
    "report": ("acme_milter.cli.bulk_report:report", "Write what became of each mailbox of a run."),
    "simulate": ("acme_milter.cli.bulk_simulate:simulate", "Say how long replacing everything would take."),
}


@click.group(cls=LazyGroup, places=COMMANDS)
def bulk() -> None:
    """Plan and run orders for many mailboxes: plan, look at the plan, run it, interrupt and resume it."""
