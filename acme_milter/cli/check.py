# SPDX-License-Identifier: GPL-3.0-or-later
"""`acme-milter check`: is this configuration one that everything can start with?"""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from acme_milter.cli.configured import config_path, exit_code_for_faults, load_config_or_exit
from acme_milter.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from acme_milter.cli.check_online import Found
    from acme_milter.config.schema import Config

SCHEMA = "acme-milter/check/1"


@click.command()
@click.option("--online", is_flag=True, help="Also ask the authorities and the DNS: who may issue for which domain.")
@click.option("--json", "as_json", is_flag=True, help=f"Print the result as JSON ({SCHEMA}).")
@click.pass_context
def check(ctx: click.Context, online: bool, as_json: bool) -> None:
    """Report every fault of the configuration, each as FILE:LINE: KEY: what is wrong.

    Exit status 0 when there is none, 78 otherwise, 77 when the caller may not read it, 75 when --online finds an
    authority that does not answer. A line that begins with "note:" is no fault, but keeps this machine from working as
    it stands. Nothing is started and, without --online, nobody is asked over the network; files that the configuration
    names, secrets among them, are looked at as far as the caller may.
    """
    if as_json:
        _check_as_json(ctx, online=online)
    config = load_config_or_exit(ctx, files=True)
    permissions = _permissions(config, online)
    for note in (*_notes(config), *_texts(permissions, faults=False)):
        click.echo(f"note: {note}", err=True)
    unreachable = _texts(permissions, faults=True)
    if unreachable:
        click.echo("\n".join(unreachable), err=True)
        ctx.exit(ExitCode.TRY_LATER)
    sources = f", {_count(len(config.sources), 'source', 'sources')}" if config.sources else ""
    click.echo(
        f"configuration ok: {_count(len(config.members), 'mailbox', 'mailboxes')}"
        f" in {_count(len(config.domains), 'domain', 'domains')},"
        f" {_count(len(config.named_authorities), 'authority', 'authorities')}{sources}"
    )


def _permissions(config: "Config", online: bool) -> Sequence["Found"]:
    if not online:
        return ()
    from acme_milter.cli.check_online import permissions

    return tuple(permissions(config))


def _texts(permissions: Sequence["Found"], *, faults: bool) -> list[str]:
    """Each once, however many domains it is about."""
    return list(dict.fromkeys(found.text for found in permissions if found.text and found.is_fault is faults))


def _check_as_json(ctx: click.Context, *, online: bool) -> None:
    from acme_milter.config.loader import ConfigFaults, load

    answer: dict[str, object] = {"schema": SCHEMA, "ok": True, "file": str(config_path(ctx)), "faults": [], "notes": []}
    code = ExitCode.OK
    try:
        config = load(config_path(ctx), files=True)
        answer["mailboxes"] = len(config.members)
        answer["domains"] = sorted(config.domains)
        answer["authorities"] = list(config.named_authorities)
        answer["sources"] = list(config.sources)
        answer["notes"] = list(_notes(config))
        if online:
            permissions = _permissions(config, online)
            answer["caa"] = [found.as_row() for found in permissions]
            answer["unreachable"] = unreachable = _texts(permissions, faults=True)
            answer["ok"], code = not unreachable, ExitCode.TRY_LATER if unreachable else ExitCode.OK
    except ConfigFaults as found:
        answer["ok"] = False
        answer["faults"] = [
            {"file": str(fault.file), "line": fault.line, "key": fault.key, "message": fault.message}
            for fault in found.faults
        ]
        code = exit_code_for_faults(config_path(ctx))
    click.echo(json.dumps(answer, indent=2))
    ctx.exit(code)


def _notes(config: "Config") -> Iterator[str]:
    """What a fresh or a moved machine lacks; the same file may be fine on the next one, so these are no faults."""
    if not config.members and not any(domain.source for domain in config.domains.values()):
        yield "no mailbox is managed yet; list some: domains: {example.org: {mailboxes: {list: [you@example.org]}}}"
    yield from _extras(config)
    path = config.keys.wrapping_key.file
    if path is None:
        return
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        yield (
            f"keys.wrapping_key: {path} is not there: keyd makes a new one when it starts. For a store that exists, put"
            " the old one back first"
        )
    except OSError:
        return  # keyd's business, and not visible from here
    else:
        if mode & 0o077:
            yield f"keys.wrapping_key: {path} is open to group or others, and keyd refuses it; run: chmod 0600 {path}"


def _extras(config: "Config") -> Iterator[str]:
    from acme_milter.certificate.lint import MISSING, lint_is_installed

    for name, authority in config.named_authorities.items():
        if authority.lint == "require" and not lint_is_installed():
            yield f"authorities.{name}.lint: {MISSING}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
