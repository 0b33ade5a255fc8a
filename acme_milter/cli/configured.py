# SPDX-License-Identifier: GPL-3.0-or-later
"""How a command gets at the configuration that `--config` names."""

import gc
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from acme_milter.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from acme_milter.config.document import Node
    from acme_milter.config.schema import Config

DEFAULT_CONFIG = Path("/etc/acme-milter/acme-milter.yaml")


def config_path(ctx: click.Context) -> Path:
    """The file that `--config` names, or the default; for handing on to another process."""
    found = ctx.find_object(Path)
    return DEFAULT_CONFIG if found is None else found


def load_config_or_exit(ctx: click.Context, *, files: bool = False) -> "Config":
    """The configuration, or the end of the command: every fault on a line of standard error, exit status 78 (77 when
    it is there and the caller may not read it).

    With `files` the files it names are looked at too, see `config.loader.load`.
    """
    return load_with_document_or_exit(ctx, files=files)[0]


@dataclass(frozen=True, slots=True)
class Sockets:
    """Where the roles listen, by a configuration with faults: those that run have read another one."""

    worker: Path
    keyd: Path


def load_config_or_sockets(ctx: click.Context) -> "Config | Sockets":
    """As `load_config_or_exit`, but one with faults, after these are told, is still good for its sockets."""
    found = _load_or_tell(ctx, files=False)
    if found is not None:
        return found[0]
    from acme_milter.config.loader import sockets_in

    return Sockets(*sockets_in(config_path(ctx)))


def load_with_document_or_exit(ctx: click.Context, *, files: bool = False) -> "tuple[Config, Node]":
    """As `load_config_or_exit`, and what was written, see `config.loader.load_with_document`."""
    found = _load_or_tell(ctx, files=files)
    if found is None:
        ctx.exit(exit_code_for_faults(config_path(ctx)))
    return found


def _load_or_tell(ctx: click.Context, *, files: bool) -> "tuple[Config, Node] | None":
    # Importing makes no garbage, and looking for it takes a tenth of the time that a short command has.
    gc.disable()
    from acme_milter.config.loader import ConfigFaults, load_with_document

    try:
        return load_with_document(config_path(ctx), files=files)
    except ConfigFaults as found:
        for fault in found.faults:
            click.echo(str(fault), err=True)
        return None
    finally:
        gc.enable()


def exit_code_for_faults(path: Path) -> ExitCode:
    """Of a configuration that cannot be used: a file that others may read is no fault of what it says."""
    try:
        forbidden = path.exists() and not os.access(path, os.R_OK)
    except PermissionError:
        forbidden = True
    return ExitCode.PERMISSION if forbidden else ExitCode.CONFIGURATION
