# SPDX-License-Identifier: GPL-3.0-or-later
"""`acme-milter check`: is this configuration one that everything can start with?"""

import json

import click

from acme_milter.cli.configured import config_path, load_config_or_exit
from acme_milter.cli.exit_codes import ExitCode

SCHEMA = "acme-milter/check/1"


@click.command()
@click.option("--json", "as_json", is_flag=True, help=f"Print the result as JSON ({SCHEMA}).")
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """Report every fault of the configuration, each as FILE:LINE: KEY: what is wrong.

    Exit status 0 when there is none, 78 otherwise. Nothing is started and nobody is asked over the network; files
    that the configuration names are looked at as far as the caller may.
    """
    if as_json:
        _check_as_json(ctx)
    config = load_config_or_exit(ctx, files=True)
    click.echo(
        f"configuration ok: {_count(len(config.managed()), 'mailbox', 'mailboxes')}"
        f" in {_count(len(config.domains), 'domain', 'domains')},"
        f" {_count(len(config.authorities), 'authority', 'authorities')}"
    )


def _check_as_json(ctx: click.Context) -> None:
    from acme_milter.config.loader import ConfigFaults, load

    answer: dict[str, object] = {"schema": SCHEMA, "ok": True, "file": str(config_path(ctx)), "faults": []}
    code = ExitCode.OK
    try:
        config = load(config_path(ctx), files=True)
        answer["mailboxes"] = len(config.managed())
        answer["domains"] = sorted(config.domains)
        answer["authorities"] = list(config.authorities)
    except ConfigFaults as found:
        answer["ok"] = False
        answer["faults"] = [
            {"file": str(fault.file), "line": fault.line, "key": fault.key, "message": fault.message}
            for fault in found.faults
        ]
        code = ExitCode.CONFIGURATION
    click.echo(json.dumps(answer, indent=2))
    ctx.exit(code)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
