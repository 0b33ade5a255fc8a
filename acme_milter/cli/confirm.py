# SPDX-License-Identifier: GPL-3.0-or-later
"""The question before something is done to more than one mailbox, or for ever."""

import shlex
import sys

import click

from acme_milter.cli.exit_codes import ExitCode


def confirm_count(count: int, doing: str, *, yes: bool) -> None:
    """Say how many mailboxes are meant and go on with ``yes``, or when a person at a terminal agrees.

    `doing` is what is done to them ("order certificates for"). One mailbox needs no question. Elsewhere the command
    ends with status 2 and the line that would do it.
    """
    if count <= 1:
        return
    confirm(f"{doing} {count} mailboxes", yes=yes)


def confirm(doing: str, *, yes: bool) -> None:
    """As `confirm_count`, whatever it is that is done."""
    click.echo(doing, err=True)
    if yes:
        return
    if sys.stdin.isatty():
        if click.confirm("Go on?", err=True):
            return
        raise click.exceptions.Exit(ExitCode.FAILED)
    click.echo(
        f"nothing done; if that is what you want, run: {shlex.join(['acme-milter', *sys.argv[1:], '--yes'])}", err=True
    )
    raise click.exceptions.Exit(ExitCode.USAGE)
