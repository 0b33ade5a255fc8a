# SPDX-License-Identifier: GPL-3.0-or-later
"""How a command has the running worker do something, and what it says when the worker cannot."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from acme_milter.cli.exit_codes import ExitCode
from acme_milter.cli.owner import as_owner
from acme_milter.ipc.client import FrameClient, PeerForbidden, PeerUnavailable

if TYPE_CHECKING:
    from acme_milter.config.schema import Config

BATCH = 2000
"""Addresses in one request, well inside a frame."""
PATIENCE = 30.0


def ask_worker(config: "Config", call: str, *, patience: float = PATIENCE, **args: object) -> dict[str, Any]:
    """The worker's answer to a control call; ends the command with 75 without one, and 77 where it is not for us.

    ``patience``: seconds that the answer may take.
    """
    with _Worker(config, patience) as worker:
        return worker.ask(call, args)


def ask_worker_in_parts(
    config: "Config", call: str, key: str, items: Sequence[str], **args: object
) -> list[dict[str, Any]]:
    """The `results` of a call on any number of `items`, which it takes under `key`; ends the command as ask_worker."""
    results: list[dict[str, Any]] = []
    with _Worker(config) as worker:
        for start in range(0, len(items), BATCH):
            results += worker.ask(call, {key: list(items[start : start + BATCH]), **args})["results"]
    return results


class _Worker:
    def __init__(self, config: "Config", patience: float = PATIENCE) -> None:
        self._config = config
        self._frames = FrameClient(config.worker.control_socket, timeout=patience)

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._frames.close()

    def ask(self, call: str, args: dict[str, object]) -> dict[str, Any]:
        path = self._config.worker.control_socket
        try:
            answer, _ = self._frames.call({"call": call, **args})
        except PeerForbidden as error:
            _end(f"{error}; {as_owner(path)}", ExitCode.PERMISSION)
        except PeerUnavailable as error:
            run = f"acme-milter --config {self._config.path} run"
            _end(f"no worker is listening: {error}; start it with: {run}", ExitCode.TRY_LATER)
        if answer.get("error") == "unknown call":
            _end("the running worker is another version than this command; restart acme-milter", ExitCode.TRY_LATER)
        if "error" in answer and "text" in answer:
            _end(str(answer["text"]), ExitCode.FAILED)
        if "error" in answer:
            _end("the worker could not do it now; its log says why", ExitCode.TRY_LATER)
        return answer


def _end(message: str, code: ExitCode) -> NoReturn:
    click.echo(message, err=True)
    raise click.exceptions.Exit(code)
