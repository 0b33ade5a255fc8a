# SPDX-License-Identifier: GPL-3.0-or-later
"""`acme-milter manual`: man pages from the commands' own help and from the configuration's one schema.

Nothing of a page is written twice: what a command does is its docstring, what a key means is its description.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from acme_milter.cli.exit_codes import ExitCode
from acme_milter.cli.roff import bold, escaped, heading, italic, paragraphs

CONFIGURATION_PAGE = "acme-milter.yaml.5"
_MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "failed",
    ExitCode.USAGE: "the command line makes no sense",
    ExitCode.PARTLY: "some of it failed",
    ExitCode.TRY_LATER: "not now: a role is not running, the authority is away, or it takes longer",
    ExitCode.PERMISSION: "not allowed",
    ExitCode.CONFIGURATION: "the configuration has a fault",
}


@click.command()
@click.argument("name", required=False, metavar="[PAGE]")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Write all pages below this directory.")
@click.pass_context
def manual(context: click.Context, name: str | None, out: Path | None) -> None:
    """Print a man page, list them, or write all of them where man finds them.

    As in: acme-milter manual --out /usr/local/share/man
    """
    pages = all_pages(context.find_root().command)
    if out is not None:
        for page, text in pages.items():
            place = out / f"man{page.rpartition('.')[2]}"
            place.mkdir(parents=True, exist_ok=True)
            (place / page).write_text(text, encoding="utf-8")
            click.echo(f"wrote {place / page}")
    elif name is None:
        for page in pages:
            click.echo(page)
    else:
        found = next((text for page, text in pages.items() if name in {page, page.rpartition(".")[0]}), None)
        if found is None:
            raise click.UsageError(f"there is no page {name!r}; there are: {', '.join(pages)}")
        click.echo(found, nl=False)


def all_pages(top: click.Command) -> dict[str, str]:
    """Every page by its file name: the program, each group of commands, the configuration."""
    from acme_milter.cli.manual_configuration import configuration_page

    assert isinstance(top, click.Group)
    context = click.Context(top, info_name="acme-milter")
    commands = _commands(top, context)
    groups = {word: command for word, command in commands.items() if isinstance(command, click.Group)}
    pages = {"acme-milter.8": _program_page(top, context, commands)}
    for word, group in groups.items():
        pages[f"acme-milter-{word}.8"] = _group_page(word, group, context)
    pages[CONFIGURATION_PAGE] = configuration_page()
    return pages


def _commands(group: click.Group, context: click.Context) -> dict[str, click.Command]:
    found = {word: group.get_command(context, word) for word in group.list_commands(context)}
    return {word: command for word, command in found.items() if command is not None and not command.hidden}


def _program_page(top: click.Group, context: click.Context, commands: Mapping[str, click.Command]) -> str:
    lines = [
        heading("acme-milter", 8, top.help or ""),
        ".SH SYNOPSIS",
        f"{bold('acme-milter')} [{bold('--config')} {italic('FILE')}] {italic('COMMAND')} …",
        ".SH DESCRIPTION",
        paragraphs(top.help or ""),
        ".SH OPTIONS",
        *_options(top, context),
        ".SH COMMANDS",
    ]
    for word, command in commands.items():
        if isinstance(command, click.Group):
            text = f"{command.get_short_help_str(200)} See {bold(f'acme-milter-{word}')}(8)."
            lines += [".TP", bold(word), text]
        else:
            lines += [f".SS {escaped(_usage(word, command, context))}", *_described(command, context)]
    lines += [".SH EXIT STATUS"]
    for code, meaning in _MEANINGS.items():
        lines += [".TP", bold(str(int(code))), escaped(meaning)]
    lines += [".SH FILES", ".TP", italic("/etc/acme-milter/acme-milter.yaml"), "The configuration."]
    others = [f"{bold(f'acme-milter-{word}')}(8)" for word, c in commands.items() if isinstance(c, click.Group)]
    lines += [".SH SEE ALSO", ", ".join([*others, f"{bold('acme-milter.yaml')}(5)"])]
    return "\n".join(lines) + "\n"


def _group_page(word: str, group: click.Group, context: click.Context) -> str:
    inner = click.Context(group, info_name=word, parent=context)
    lines = [
        heading(f"acme-milter-{word}", 8, group.help or ""),
        ".SH SYNOPSIS",
        f"{bold(f'acme-milter {word}')} {italic('COMMAND')} …",
        ".SH DESCRIPTION",
        paragraphs(group.help or ""),
        ".SH COMMANDS",
    ]
    for name, command in _commands(group, inner).items():
        lines += [f".SS {escaped(_usage(f'{word} {name}', command, context))}", *_described(command, inner)]
    lines += [".SH SEE ALSO", f"{bold('acme-milter')}(8), {bold('acme-milter.yaml')}(5)"]
    return "\n".join(lines) + "\n"


def _usage(words: str, command: click.Command, parent: click.Context) -> str:
    context = click.Context(command, info_name=words, parent=parent)
    return " ".join([words, *command.collect_usage_pieces(context)])


def _described(command: click.Command, parent: click.Context) -> Iterator[str]:
    yield paragraphs(command.help or "")
    yield from _options(command, parent)


def _options(command: click.Command, parent: click.Context) -> Iterator[str]:
    context = click.Context(command, info_name=command.name, parent=parent)
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None:
            yield ".TP"
            yield bold(record[0])
            yield escaped(record[1]) or "."
