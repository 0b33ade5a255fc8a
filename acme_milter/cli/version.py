# SPDX-License-Identifier: GPL-3.0-or-later
"""`acme-milter version`: what to put into a bug report."""

import json
import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version

import click

from acme_milter import __version__

SCHEMA = "acme-milter/version/1"
_LIBRARIES = ("cryptography", "dkimpy", "josepy", "pydantic", "pymilter", "requests", "SQLAlchemy")


@click.command()
@click.option("--json", "as_json", is_flag=True, help=f"Print the result as JSON ({SCHEMA}).")
def version(as_json: bool) -> None:
    """Show the version, and those of Python and the libraries that matter."""
    libraries = {name: found for name in _LIBRARIES if (found := _installed(name))}
    if as_json:
        answer = {"schema": SCHEMA, "version": __version__, "python": platform.python_version()}
        click.echo(json.dumps({**answer, "libraries": libraries}, indent=2))
        return
    click.echo(f"acme-milter {__version__}")
    click.echo(f"python {platform.python_version()} on {platform.system()} {platform.release()}")
    click.echo(", ".join(f"{name} {number}" for name, number in libraries.items()))


def _installed(name: str) -> str | None:
    try:
        return installed_version(name)
    except PackageNotFoundError:
        return None
