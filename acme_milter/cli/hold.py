# SPDX-License-Identifier: GPL-3.0-or-later
"""`hold`: what a guard has stopped, and letting it through."""

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from acme_milter.cli.ask_worker import ask_worker_in_parts
from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.exit_codes import ExitCode
from acme_milter.cli.view import print_document

if TYPE_CHECKING:
    from acme_milter.config.schema import Config
    from acme_milter.store.holds import Hold

LIST_SCHEMA = "acme-milter/hold-list/1"
RELEASE_SCHEMA = "acme-milter/hold-release/1"


@click.group()
def hold() -> None:
    """See and release what a guard has stopped.

    A guard stops what looks like a mistake: a source that has lost its mailboxes, more joiners or leavers than a day
    brings, a storm of renewals. Everything else goes on meanwhile.
    """


@hold.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def list_holds(context: click.Context, as_json: bool) -> None:
    """List what is held, why, and the command that lets it through."""
    found = _holds(load_config_or_exit(context))
    if as_json:
        print_document({"schema": LIST_SCHEMA, "holds": [_as_json(one) for one in found]})
        return
    for one in found:
        released = ", released: goes on at the guard's next look" if one.released_at else ""
        click.echo(f"{one.name}: since {one.since:%Y-%m-%d %H:%M} UTC{released}")
        click.echo(f"  {one.reason}")
        if one.released_at is None:
            click.echo(f"  if that is right, run: acme-milter hold release {shlex.quote(one.name)} --yes")
    if not found:
        click.echo("nothing is held")


@hold.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@click.option("--yes", is_flag=True, help="Do it without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def release(context: click.Context, names: Sequence[str], yes: bool, as_json: bool) -> None:
    """Let through, once, what is held under each NAME.

    It is for what `hold list` shows now: should it be more by the time that the guard looks again, it is held anew.
    Exit status 3 when some and 1 when all of the NAMES are not there.
    """
    config = load_config_or_exit(context)
    known = {one.name: one for one in _holds(config)}
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name in known:
            click.echo(f"{name}: {known[name].reason}", err=True)
    if not yes and any(name in known for name in wanted):
        _confirm()
    results = ask_worker_in_parts(config, "release-hold", "names", wanted)
    if as_json:
        print_document({"schema": RELEASE_SCHEMA, "results": results})
    else:
        for result in results:
            done = result["outcome"] == "released"
            said = "released" if done else "nothing is held by this name; look with: acme-milter hold list"
            click.echo(f"{result['name']}: {said}", err=not done)
    released = sum(result["outcome"] == "released" for result in results)
    if released < len(results):
        context.exit(ExitCode.PARTLY if released else ExitCode.FAILED)


def _confirm() -> None:
    """A hold is never about one mailbox alone, so it is always asked."""
    if sys.stdin.isatty():
        if click.confirm("Go on?", err=True):
            return
        raise click.exceptions.Exit(ExitCode.FAILED)
    line = shlex.join(["acme-milter", *sys.argv[1:], "--yes"])
    click.echo(f"nothing done; if that is what you want, run: {line}", err=True)
    raise click.exceptions.Exit(ExitCode.USAGE)


def _holds(config: "Config") -> "list[Hold]":
    from acme_milter.cli.store import reading_store
    from acme_milter.store import holds

    with reading_store(config) as database, database.read() as connection:
        return holds.waiting(connection)


def _as_json(one: "Hold") -> dict[str, object]:
    return {
        "name": one.name,
        "since": one.since.isoformat(),
        "reason": one.reason,
        "size": one.size,
        "released_at": one.released_at.isoformat() if one.released_at else None,
    }
