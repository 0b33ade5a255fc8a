# SPDX-License-Identifier: GPL-3.0-or-later
"""Every command in a page of docs/ runs as it stands there, and prints what is shown.

A page takes part when an HTML comment names the directory its commands run in: ``<!-- commands run in
contrib/examples -->``. They run in a copy of it, with its ``acme-milter.yaml``, in the order of the page. In a
```console block a line ``$ acme-milter …`` is a command, and a trailing ``# exit 1`` its exit status; the lines below
it are what it prints, where a line with nothing but … stands for any number of lines. Nothing below is not looked at.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_WHERE = re.compile(r"<!-- commands run in (\S+) -->")
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_STATUS = re.compile(r"\s+# exit (\d+)$")


@dataclass(frozen=True)
class Shown:
    """A command as a page shows it, and what it is said to print."""

    words: list[str]
    status: int
    output: list[str]


def directory_of(page: Path) -> Path | None:
    found = _WHERE.search(page.read_text(encoding="utf-8"))
    return None if found is None else ROOT / found[1]


def commands_of(page: Path) -> list[Shown]:
    found: list[Shown] = []
    for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.splitlines():
            if line.startswith("$ "):
                status = _STATUS.search(line)
                words = shlex.split(_STATUS.sub("", line[2:]))
                found.append(Shown(words, int(status[1]) if status else 0, []))
            else:
                found[-1].output.append(line.rstrip())
    return found


def as_pattern(lines: list[str]) -> str:
    parts = [r"(?:.*\n)*?" if line.strip() == "…" else re.escape(line) + r"[ ]*\n" for line in lines]
    return "".join(parts)


PAGES = sorted(page for page in ROOT.glob("docs/**/*.md") if directory_of(page) is not None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_do_what_it_shows(page: Path, tmp_path: Path) -> None:
    directory = directory_of(page)
    assert directory is not None
    place = tmp_path / "example"
    shutil.copytree(directory, place)
    for made in [place, *place.rglob("*")]:
        made.chmod(made.stat().st_mode & ~0o022)  # whatever the umask of the checkout was
    commands = commands_of(page)
    assert commands
    for shown in commands:
        assert shown.words[0] == "acme-milter", shown
        done = subprocess.run(
            [sys.executable, "-m", "acme_milter", *shown.words[1:]],
            cwd=place,
            env=os.environ | {"ACME_MILTER_CONFIG": "acme-milter.yaml"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert done.returncode == shown.status, (shown.words, done.stdout)
        if shown.output:
            assert re.fullmatch(as_pattern(shown.output), done.stdout), (shown.words, done.stdout)


def test_there_are_pages_to_look_at() -> None:
    assert PAGES
