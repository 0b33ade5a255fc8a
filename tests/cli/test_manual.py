# SPDX-License-Identifier: GPL-3.0-or-later
"""The man pages: real man takes them, and they name every command, option and key."""

import re
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from acme_milter.cli.main import cli
from acme_milter.cli.manual import CONFIGURATION_PAGE, all_pages
from acme_milter.config.json_schema import schema_of_file


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return all_pages(cli)


def shown(page: str, directory: Path) -> str:
    """As a reader sees it, on one endless line; fails on whatever man has to say about it."""
    file = directory / "page.8"
    file.write_text(page, encoding="utf-8")
    done = subprocess.run(
        ["man", "--warnings=all", "--encoding=UTF-8", "--local-file", str(file)],
        env={"MANWIDTH": "400", "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return re.sub(r"\s+", " ", re.sub(r".\x08", "", done.stdout))


def test_there_is_a_page_for_each_group_of_commands_and_one_for_the_configuration(pages: dict[str, str]) -> None:
    context = click.Context(cli)
    groups = [name for name in cli.list_commands(context) if isinstance(cli.get_command(context, name), click.Group)]
    assert groups
    assert set(pages) == {"acme-milter.8", CONFIGURATION_PAGE, *(f"acme-milter-{name}.8" for name in groups)}


def test_man_takes_every_page_without_a_word_and_shows_every_option(pages: dict[str, str], tmp_path: Path) -> None:
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        group = command if isinstance(command, click.Group) else None
        text = shown(pages[f"acme-milter-{name}.8" if group else "acme-milter.8"], tmp_path)
        inner_context = click.Context(command, parent=context)
        inner = (
            [group.get_command(inner_context, word) for word in group.list_commands(inner_context)]
            if group
            else [command]
        )
        for one in inner:
            assert one is not None
            for parameter in one.params:
                assert isinstance(parameter, click.Argument) or parameter.opts[0] in text, (name, parameter.opts)


def test_every_key_of_the_configuration_is_explained(pages: dict[str, str], tmp_path: Path) -> None:
    text = shown(pages[CONFIGURATION_PAGE], tmp_path)
    schema = schema_of_file()
    for section in [schema, *schema["$defs"].values()]:
        for key in section.get("properties", {}):
            assert f" {key} (" in text, key


def test_the_pages_are_written_where_man_finds_them(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["manual", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    for page in ("man8/acme-milter.8", "man8/acme-milter-cert.8", "man5/acme-milter.yaml.5"):
        found = subprocess.run(
            ["man", "--path", "--manpath", str(tmp_path), *reversed(Path(page).name.rsplit(".", 1))],
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.strip() == str(tmp_path / page)


def test_an_unknown_page_is_answered_with_the_known_ones() -> None:
    done = CliRunner().invoke(cli, ["manual", "acme-milter-certs"])
    assert done.exit_code == 2
    assert "acme-milter-cert.8" in done.output
