# SPDX-License-Identifier: GPL-3.0-or-later
"""`acme-milter config`: is it right, what holds for whom and why, what differs from the defaults, what may be there."""

import json
from typing import TYPE_CHECKING, Any

import click

from acme_milter.cli.check import check
from acme_milter.cli.configured import load_config_or_exit, load_with_document_or_exit
from acme_milter.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from acme_milter.config.document import Place
    from acme_milter.config.origins import Explained
    from acme_milter.config.schema import Config

EXPLAIN_SCHEMA = "acme-milter/config-explain/1"
SHOW_SCHEMA = "acme-milter/config-show/1"
POSTFIX_QUEUE = "/var/spool/postfix/"
"""Debian's smtpd is chrooted there, so main.cf names sockets from there on."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def config() -> None:
    """Check, explain and show the configuration."""


config.add_command(check)


@config.command()
@click.argument("address", metavar="ADDRESS")
@click.option("--json", "as_json", is_flag=True, help=f"Print one JSON document ({EXPLAIN_SCHEMA}).")
@click.pass_context
def explain(context: click.Context, address: str, as_json: bool) -> None:
    """Show every value that holds for a mailbox, and the file and line, preset or program it comes from.

    A mailbox that is not managed gets the reason why, and the values that would hold for it. Exit status 1 when its
    domain is not configured.
    """
    from acme_milter.cli.config_lookup import look_up
    from acme_milter.config.origins import explained, group_place

    found, top = load_with_document_or_exit(context)
    subject = look_up(context, found, address)
    member = subject.member
    if member is None:
        click.echo(f"{address}: {subject.reason}", err=True)
        context.exit(ExitCode.FAILED)
    values = list(explained(found, top, member))
    place = group_place(found, top, member)
    document: dict[str, Any] = {
        "schema": EXPLAIN_SCHEMA,
        "address": member.address,
        "managed": subject.reason is None,
        "reason": subject.reason,
        "source": member.source,
        "principal": member.principal,
        "person_name": member.person_name,
        "groups": sorted(member.groups),
        "matched_group": None if place is None else {"key": place.key, "file": str(place.file), "line": place.line},
        "values": [_value_as_json(value) for value in values],
    }
    if as_json:
        click.echo(json.dumps(document))
        return
    _print_explained(found, document, values, place)


def _value_as_json(value: "Explained") -> dict[str, object]:
    answer: dict[str, object] = {"key": value.key, "value": value.value}
    if value.place is not None:
        return answer | {"from": "file", "file": str(value.place.file), "line": value.place.line}
    return answer | ({"from": "built-in"} if value.preset is None else {"from": "preset", "preset": value.preset})


def _print_explained(
    found: "Config", document: dict[str, Any], values: "list[Explained]", place: "Place | None"
) -> None:
    from acme_milter.config.written_form import one_line

    click.echo(document["address"])
    facts = {
        "managed": "yes" if document["managed"] else f"no: {document['reason']}",
        "source": document["source"] if document["managed"] else None,
        "person": document["person_name"],
        "keys of": document["principal"] if document["managed"] else None,
        "groups": ", ".join(document["groups"]) or None,
        "matched group": "none" if place is None else f"{place.key} ({_place_text(found, place)})",
    }
    shown = [(name, fact) for name, fact in facts.items() if fact]
    rows = [(value.key, one_line(value.value), _origin(found, value)) for value in values]
    for name, fact in shown:
        click.echo(f"  {_printable(f'{name:15}{fact}')}")
    click.echo()
    first = max(len(key) for key, _, _ in rows)
    second = min(max(len(text) for _, text, _ in rows), 44)
    for key, text, origin in rows:
        click.echo(f"  {_printable(f'{key:{first}}  {text:{second}}  {origin}')}")


def _origin(found: "Config", value: "Explained") -> str:
    if value.place is not None:
        return _place_text(found, value.place)
    return "built-in" if value.preset is None else f"preset {value.preset}"


def _place_text(found: "Config", place: "Place") -> str:
    """The file as one would name it from the configuration's directory, and the line."""
    path = place.file or found.path
    if path.is_relative_to(found.path.parent):
        path = path.relative_to(found.path.parent)
    return f"{path}:{place.line}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


@config.command()
@click.option("--all", "everything", is_flag=True, help="Show the defaults too.")
@click.option("--json", "as_json", is_flag=True, help=f"Print one JSON document ({SHOW_SCHEMA}).")
@click.pass_context
def show(context: click.Context, everything: bool, as_json: bool) -> None:
    """Show what differs from the defaults, as YAML that could be used in its place.

    Domains with files of their own are shown like the others. Secrets are shown as where they are kept.
    """
    from acme_milter.config.differences import as_document

    found = load_config_or_exit(context)
    document = as_document(found, everything=everything)
    milter = milter_in_main_cf(found.milter.socket)
    if as_json:
        answer = {"schema": SHOW_SCHEMA, "all": everything, "smtpd_milters": milter, "configuration": document}
        click.echo(json.dumps(answer))
        return
    import yaml

    click.echo(f"# {found.path}{'' if everything else ': what differs from the defaults (all of it: --all)'}")
    click.echo(f"# main.cf: smtpd_milters = {milter}")
    click.echo(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110), nl=False)


def milter_in_main_cf(socket: str) -> str:
    """How Postfix spells the milter's socket (`milter.socket`), from inside its chroot where it is there."""
    return socket.replace(f"unix:{POSTFIX_QUEUE}", "unix:", 1)


@config.command()
@click.option("--domain-file", is_flag=True, help="The schema of a file in domains.d instead.")
def schema(domain_file: bool) -> None:
    """Print the JSON Schema (draft 2020-12) of the configuration file, for editors."""
    from acme_milter.config.json_schema import schema_of_domain_file, schema_of_file

    click.echo(json.dumps(schema_of_domain_file() if domain_file else schema_of_file(), indent=2))
