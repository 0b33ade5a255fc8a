# SPDX-License-Identifier: GPL-3.0-or-later
"""How a command gets at a view: from the running worker, or from the store where no worker can answer.

The worker has everything loaded; a command that asks it imports neither the store nor a database driver.
"""

import json
from typing import TYPE_CHECKING, NoReturn, cast

import click

from acme_milter.cli.exit_codes import ExitCode
from acme_milter.ipc.client import FrameClient, PeerUnavailable
from acme_milter.ipc.frames import FrameError

if TYPE_CHECKING:
    from pathlib import Path

    from acme_milter.config.schema import Config

PATIENCE = 5.0
"""Seconds for the worker's answer; it takes a fraction of one, unless the worker is not well."""


def ask_view(context: click.Context, config: "Config", name: str, **args: object) -> dict[str, object]:
    """The document of the view `name` (report.views) with `args`; ends the command when there is none.

    Exit status 1 for what the view does not know, 75 without a store, 77 when neither is for this user.
    """
    answer = _from_worker(config.worker.control_socket, name, args)
    if answer.get("error") == "unanswerable":
        _end(context, str(answer.get("text")))
    if isinstance(document := answer.get("view"), dict):
        return cast("dict[str, object]", document)
    return _from_store(context, config, name, args)


def ask_view_of_worker(control_socket: "Path", name: str, **args: object) -> dict[str, object] | None:
    """The document as the worker that listens there makes it, None without one: for who has no configuration."""
    document = _from_worker(control_socket, name, args).get("view")
    return cast("dict[str, object]", document) if isinstance(document, dict) else None


def make_view(context: click.Context, config: "Config", name: str, **args: object) -> dict[str, object]:
    """As `ask_view`, of what is long: made here, so that the worker goes on with its own work meanwhile."""
    return _from_store(context, config, name, args)


def print_document(document: dict[str, object]) -> None:
    """One line of JSON, as --json has it."""
    click.echo(json.dumps(document))


def _from_worker(control_socket: "Path", name: str, args: dict[str, object]) -> dict[str, object]:
    try:
        with FrameClient(control_socket, timeout=PATIENCE) as worker:
            return worker.call({"call": "view", "view": name, "args": args})[0]
    except (PeerUnavailable, FrameError):  # FrameError: more arguments than a frame holds
        return {}


def _from_store(context: click.Context, config: "Config", name: str, args: dict[str, object]) -> dict[str, object]:
    from acme_milter.cli.store import reading_store
    from acme_milter.clock import Clock
    from acme_milter.report.member import with_sourced
    from acme_milter.report.unanswerable import Unanswerable
    from acme_milter.report.views import VIEWS, WHOLE

    with reading_store(config) as database, database.read() as connection:
        if name in WHOLE:
            config = with_sourced(connection, config)
        try:
            return VIEWS[name](connection, config, Clock().now(), **args)
        except Unanswerable as error:
            _end(context, str(error))


def _end(context: click.Context, message: str) -> NoReturn:
    click.echo(message, err=True)
    context.exit(ExitCode.FAILED)
