# SPDX-License-Identifier: GPL-3.0-or-later
"""Watching a bulk run: a bar for each domain on a terminal, plain lines elsewhere; Ctrl-C pauses the run."""

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, Self

import click

from acme_milter.cli.ask_worker import ask_worker
from acme_milter.cli.bulk_options import command_line
from acme_milter.cli.exit_codes import ExitCode
from acme_milter.cli.view import ask_view, print_document

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from acme_milter.config.schema import Config

LOOK_EVERY = 1.0
TELL_EVERY = 10.0
"""Seconds between two plain lines, unless something happens that is worth one."""

DOMAINS = 20
"""Bars that a screen has room for; domains that are done give way."""

CAUSES = 5
ENDED = frozenset({"done", "cancelled"})
RESTING = frozenset({"paused", "stopped"})

Document = dict[str, Any]


class View(Protocol):
    """Something that shows how a run is doing."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc_info: object) -> None: ...
    def show(self, document: Document) -> None: ...


class BulkLiveView:
    """The whole picture, redrawn in place."""

    def __init__(self, console: "Console | None" = None) -> None:
        from rich.live import Live

        self._live = Live(console=console, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, document: Document) -> None:
        self._live.update(picture(document))


class BulkPlainView:
    """A line now and then, and at once for a new state or a new cause of failure; nothing at all when ``quiet``."""

    def __init__(self, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._quiet = quiet
        self._clock = clock
        self._told_at = float("-inf")
        self._last = ""
        self._causes: set[str] = set()
        self._state = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def show(self, document: Document) -> None:
        if self._quiet:
            return
        line, state = summary(document), document["run"]["state"]
        due = self._clock() - self._told_at >= TELL_EVERY
        if line != self._last and (due or state != self._state):
            click.echo(line)
            self._last, self._told_at, self._state = line, self._clock(), state
        for one in [*document["failures"], *document["retrying"], *document["skipped"]]:
            if one["cause"] not in self._causes:
                click.echo(f"  {one['number']}x {one['cause']}")
                self._causes.add(one["cause"])


def watch_run(context: click.Context, config: "Config", run_id: str, *, as_json: bool) -> None:
    """Follow the run until it ends or rests; Ctrl-C pauses it. Ends the command."""
    on_terminal = sys.stdout.isatty() and not as_json
    view: View = BulkLiveView() if on_terminal else BulkPlainView(quiet=as_json)
    try:
        with view:
            document = follow_run(context, config, run_id, view)
    except KeyboardInterrupt:
        ask_worker(config, "bulk-pause", run=run_id)
        click.echo(f"\nrun {run_id} is paused; what is open goes to its end. Go on with:", err=True)
        click.echo(f"  {command_line(context, 'bulk', 'resume', run_id)}", err=True)
        context.exit(ExitCode.TRY_LATER)
    if as_json:
        print_document(document)
    else:
        tell_next(context, document)
    context.exit(exit_code(document))


def follow_run(
    context: click.Context,
    config: "Config",
    run_id: str | None,
    view: View,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Document:
    """Show the run again and again; returns its document once it goes on no more."""
    while True:
        document: Document = ask_view(context, config, "bulk-status", run=run_id)
        view.show(document)
        if document["run"]["state"] in ENDED | RESTING:
            return document
        sleep(LOOK_EVERY)


def exit_code(document: Document) -> ExitCode:
    """0 when nothing failed, 3 when something did, 1 when everything, 75 for a run that was paused."""
    state, outcomes = document["run"]["state"], document["outcomes"]
    if state == "paused":
        return ExitCode.TRY_LATER
    if state == "done" and not outcomes["failed"]:
        return ExitCode.OK
    return ExitCode.PARTLY if outcomes["active"] else ExitCode.FAILED


def tell_next(context: click.Context, document: Document) -> None:
    """Why it does not go on, and the command that changes it."""
    run, outcomes = document["run"], document["outcomes"]
    for authority, reason in run["stopped"].items():
        click.echo(f"run {run['id']} has stopped with authority {authority}: {reason}")
    if run["state"] in RESTING:
        click.echo(f"to go on: {command_line(context, 'bulk', 'resume', run['id'])}")
    elif outcomes["failed"]:
        click.echo(f"to order what failed again: {command_line(context, 'bulk', 'retry', run['id'])}")
    if outcomes["failed"] or outcomes["skipped"]:
        click.echo(f"mailbox by mailbox: {command_line(context, 'bulk', 'report', run['id'], '--csv')}")


def summary(document: Document) -> str:
    """The run in one line."""
    run, outcomes = document["run"], document["outcomes"]
    names = ("open", "retrying", "failed", "skipped")
    words = [f"{outcomes['active']}/{document['total']} active"]
    words += [f"{outcomes[name]} {name}" for name in names if outcomes[name]]
    if run["state"] == "running":
        if document["rate_per_hour"]:
            words.append(f"{document['rate_per_hour']:g}/h")
        if document["eta_seconds"] is not None:
            words.append(f"ETA {_time(document['eta_seconds'])}")
    return f"run {run['id']} {run['state']}: {', '.join(words)}"


def text_lines(document: Document) -> list[str]:
    """The picture as lines of text."""
    lines = [summary(document), f"  {document['run']['description']}"]
    lines += [f"  {one['domain']}: {one['active']}/{one['total']}{_pace(one)}" for one in document["domains"]]
    return [*lines, *(f"  {line}" for line in _details(document))]


def picture(document: Document) -> "RenderableType":
    """A bar for each domain, and below them the stages, the failures and the budgets."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    # Those that are not done yet, the largest remainder first, and then as many others as there is room for.
    chosen = sorted(document["domains"], key=lambda one: _ended(one) - one["total"])[:DOMAINS]
    for one in [domain for domain in document["domains"] if domain in chosen]:
        bar = ProgressBar(total=max(one["total"], 1), completed=_ended(one), width=32, complete_style="green")
        table.add_row(Text(one["domain"]), bar, Text(f"{one['active']}/{one['total']}"), Text(_pace(one).strip(" ,")))
    lines: list[RenderableType] = [Text(summary(document)), table]
    if len(document["domains"]) > DOMAINS:
        lines.append(Text(f"… and {len(document['domains']) - DOMAINS} more domains"))
    ending = "Ctrl-C pauses the run; bulk resume goes on." if document["run"]["state"] == "running" else ""
    return Group(*lines, *(Text(line) for line in _details(document)), Text(ending, style="dim"))


def _details(document: Document) -> list[str]:
    from acme_milter.cli.progress import STAGES

    counts = document["stages"]
    stages = [(name, sum(counts.get(state.value, 0) for state in states)) for name, states in STAGES]
    lines = []
    if any(count for _, count in stages):
        lines.append(" · ".join(f"{name} {count}" for name, count in stages if count))
    for key, word in (("failures", "failed"), ("retrying", "will be ordered again"), ("skipped", "skipped")):
        found = document[key]
        lines += [f"{word}, {one['number']}: {one['cause']}" for one in found[:CAUSES]]
        if len(found) > CAUSES:
            lines.append(f"{word}: {len(found) - CAUSES} more causes")
    for one in document["authorities"]:
        if one["in_flight_limit"] is None:
            lines.append(f"{one['authority']}: is not configured any more")
            continue
        orders, mails = one["orders_per_hour"], one["mails_per_hour"]
        budget = f"{one['orders_last_hour']}/{orders} orders" if orders else f"{one['orders_last_hour']} orders"
        budget += f" and {one['mails_last_hour']}/{mails} challenge mails" if mails else ""
        lines.append(
            f"{one['authority']}: {one['in_flight']}/{one['in_flight_limit']} in flight, {budget} this hour,"
            f" {one['failed_last_hour']}/{one['failed_per_hour']} failures"
        )
    lines += [f"stopped with {name}: {reason}" for name, reason in document["run"]["stopped"].items()]
    return lines


def _ended(one: Document) -> int:
    return int(one["active"] + one["failed"] + one["skipped"])


def _pace(one: Document) -> str:
    if _ended(one) == one["total"]:
        return ", done"
    words = f", {one['rate_per_hour']:g}/h"
    return words if one["eta_seconds"] is None else f"{words}, ETA {_time(one['eta_seconds'])}"


def _time(seconds: int) -> str:
    from acme_milter.report.pace import in_words

    return in_words(timedelta(seconds=seconds))
