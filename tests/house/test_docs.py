# SPDX-License-Identifier: GPL-3.0-or-later
"""Documents that repeat what the code says must say the same."""

import re
import subprocess
from pathlib import Path

import pytest

from acme_milter.cli.main import COMMANDS
from acme_milter.config.preset import preset_names
from acme_milter.enrollment.conditions import CONDITIONS, SMIME_CONDITIONS
from acme_milter.eventlog import Event

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("contrib/**/*.md")])


def test_the_gate_is_documented_condition_by_condition() -> None:
    documented = dict(
        re.findall(r"^\| ([GS]\d+) \| [^|]* \| ([^|]*) \|", (ROOT / "docs/gate.md").read_text(), re.MULTILINE)
    )
    assert documented == CONDITIONS | SMIME_CONDITIONS


def test_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    commands = readme[readme.index("## Commands") : readme.index("## What is met")]
    assert [name for name in COMMANDS if f"`{name}" not in commands and name != "version"] == []


def test_every_preset_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [name for name in preset_names() if f"`{name}`" not in readme] == []


def test_event_words_in_the_documents_exist() -> None:
    shown = re.findall(r"^acme-milter\[\w+\]: \S+: ([a-z-]+) ", (ROOT / "docs/gate.md").read_text(), re.MULTILINE)
    assert shown
    assert set(shown) <= set(Event)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target


def test_the_conformance_table_names_files_that_exist() -> None:
    named = re.findall(r"`([a-z_]+/[a-z_0-9]+\.py)`", (ROOT / "docs/rfc8823-conformance.md").read_text())
    assert named
    assert [
        name for name in named if not ((ROOT / "acme_milter" / name).exists() or (ROOT / "tests" / name).exists())
    ] == []


@pytest.mark.parametrize("script", ["bootstrap", "bench", "check", "demo", "format", "test", "years"])
def test_the_scripts_are_portable_shell(script: str) -> None:
    path = ROOT / "script" / script
    assert path.read_text().startswith("#!/bin/sh\n")
    subprocess.run(["sh", "-n", str(path)], check=True)
