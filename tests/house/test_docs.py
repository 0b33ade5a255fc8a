# SPDX-License-Identifier: GPL-3.0-or-later
"""Documents that repeat what the code says must say the same."""

import os
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


def test_bootstrap_asks_systemd_only_about_daemons_that_have_a_unit(tmp_path: Path) -> None:
    script = (ROOT / "script/bootstrap").read_text()
    after = script[script.index("after_packages() {") : script.index("install_packages() {")]
    stub = tmp_path / "update-rc.d"
    stub.write_text('#!/bin/sh\necho "$1 $2 without_systemd=${_SKIP_SYSTEMD_NATIVE:-0}"\n')
    stub.chmod(0o755)
    program = f"set -eu\npolicy_is_ours= clusters_are_ours= new_daemons=' named slapd'\n{after}\nafter_packages"
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(["sh", "-c", program], env={"PATH": path}, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["named disable without_systemd=0", "slapd disable without_systemd=1"]


@pytest.mark.parametrize("script", ["bootstrap", "bench", "check", "demo", "format", "test", "years"])
def test_the_scripts_are_portable_shell(script: str) -> None:
    path = ROOT / "script" / script
    assert path.read_text().startswith("#!/bin/sh\n")
    subprocess.run(["sh", "-n", str(path)], check=True)
