# SPDX-License-Identifier: GPL-3.0-or-later
"""The three roles as commands, each for a unit and a user of its own: `milter`, `worker`, `keyd`."""

import logging
import signal
from pathlib import Path

import click

from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.exit_codes import ExitCode
from acme_milter.eventlog import Event, configure_logging, log_event, log_exception

SOCKET_MODE = 0o660
"""keyd's socket: the worker runs as another user, in the socket directory's group."""


def _ignore_hangup() -> None:
    """Out of habit people send SIGHUP to every daemon, and at any time; it means something to a running worker only."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@click.command()
@click.pass_context
def milter(context: click.Context) -> None:
    """Run the milter role: what Postfix asks. Needs no key, no database, no network."""
    config = load_config_or_exit(context)
    configure_logging("milter")
    from acme_milter.milter.service import run_milter

    run_milter(
        socket=config.milter.socket,
        socket_mode=config.milter.socket_mode,
        intake_socket=config.worker.intake_socket,
        cpu=config.milter.cpu,
        deadline=config.milter.deadline.total_seconds(),
    )


@click.command()
@click.pass_context
def worker(context: click.Context) -> None:
    """Run the worker role: orders, answers, stores. Never holds an unsealed private key."""
    config = load_config_or_exit(context)
    configure_logging("worker")
    _ignore_hangup()
    from acme_milter.cli.store import DRIVER_MISSING, STORE_FAULTS, store_fault
    from acme_milter.ipc.server import AddressInUse
    from acme_milter.store.database import StoreUnusable
    from acme_milter.store.identity import SealedUnderAnotherKey
    from acme_milter.worker.answer import SigningKeyUnavailable
    from acme_milter.worker.role import run_worker

    try:
        run_worker(config)
    except (SigningKeyUnavailable, SealedUnderAnotherKey) as error:
        log_exception(Event.ROLE_DIED, error, role="worker")
        context.exit(ExitCode.CONFIGURATION)
    except AddressInUse as error:
        log_exception(Event.ROLE_DIED, error, role="worker")
        context.exit(ExitCode.FAILED)
    except STORE_FAULTS as error:
        fault = StoreUnusable(store_fault(config, error)).with_traceback(error.__traceback__)
        log_exception(Event.ROLE_DIED, fault, role="worker")
        context.exit(ExitCode.FAILED)
    except ModuleNotFoundError as missing:
        if missing.name != "psycopg":
            raise
        log_event(Event.ROLE_DIED, level=logging.ERROR, role="worker", detail=f"store.url: {DRIVER_MISSING}")
        context.exit(ExitCode.CONFIGURATION)


@click.command()
@click.pass_context
def keyd(context: click.Context) -> None:
    """Run the keyd role: the wrapping key's only keeper. Opens no network socket."""
    config = load_config_or_exit(context)
    configure_logging("keyd")
    _ignore_hangup()
    from acme_milter.ipc.server import AddressInUse
    from acme_milter.keys.algorithm import KeyAlgorithm
    from acme_milter.keys.keyd import serve
    from acme_milter.keys.wrapping_key import CredentialSource, FileSource, WrappingKeyFault, load_wrapping_key

    source = config.keys.wrapping_key
    place = FileSource(source.file) if source.file is not None else CredentialSource(source.credential or "")
    sizes = {KeyAlgorithm(name): size for name, size in config.keys.pool.model_dump().items()}
    try:
        if source.file is not None:
            _make_if_missing(source.file)
        wrapping_key = load_wrapping_key(place)
        config.keys.socket.parent.mkdir(parents=True, exist_ok=True)
        serve(config.keys.socket, wrapping_key, pool_sizes=sizes, mode=SOCKET_MODE)
    except (WrappingKeyFault, AddressInUse) as error:
        log_exception(Event.ROLE_DIED, error, role="keyd")
        context.exit(ExitCode.CONFIGURATION)


def _make_if_missing(path: Path) -> None:
    """A new installation begins with a new wrapping key.

    Where an old one was lost this does no harm: the worker finds that its store is bound to another and says so.
    """
    from acme_milter.keys.wrapping_key import WrappingKeyFault, create_wrapping_key_file

    if path.exists():
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = create_wrapping_key_file(path)
    except OSError as error:
        raise WrappingKeyFault(f"{path}: is not there and cannot be made: {error.strerror}") from None
    advice = "back it up, apart from the store: without it no stored key can be read"
    log_event(Event.KEY_MADE, level=logging.WARNING, wrapping_key=made.id, file=path, advice=advice)
