# SPDX-License-Identifier: GPL-3.0-or-later
"""How a command uses keyd, and what it says when keyd is not there or refuses."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import click

from acme_milter.cli.exit_codes import ExitCode
from acme_milter.cli.owner import as_owner
from acme_milter.config.schema import Config
from acme_milter.keys.client import KeydClient, KeydUnavailable
from acme_milter.keys.refusal import KeydRefused

_REFUSALS = {
    "seal broken": " (keyd runs with another wrapping key than the one that sealed this mailbox's key, or the store is"
    " damaged; put the right one where keys.wrapping_key says, and restart keyd)",
    "unknown call": " (it is an older version than this command; restart keyd)",
}


@contextmanager
def asking_keyd(context: click.Context, config: Config, consequence: str = "") -> Iterator[KeydClient]:
    """A client of keyd; ends the command with one line when it is out of reach (75, 77) or refuses (1)."""
    after = f"; {consequence}" if consequence else ""
    try:
        with KeydClient(config.keys.socket, timeout=60.0) as keyd:
            yield keyd
    except KeydUnavailable as error:
        if config.keys.socket.exists() and not os.access(config.keys.socket, os.W_OK):
            click.echo(f"{config.keys.socket}: permission denied; {as_owner(config.keys.socket)}", err=True)
            context.exit(ExitCode.PERMISSION)
        run = f"acme-milter --config {config.path} run"
        click.echo(f"keyd is not running: {error}; start it with: {run}", err=True)
        context.exit(ExitCode.TRY_LATER)
    except KeydRefused as error:
        click.echo(f"keyd refused: {error}{_REFUSALS.get(error.reason, '')}{after}", err=True)
        context.exit(ExitCode.FAILED)
