# SPDX-License-Identifier: GPL-3.0-or-later
"""A skipped test fails the run."""

import os
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).parents[1] / "conftest.py"
ROOT = CONFTEST.parents[1]


def run_pytest(directory: Path, body: str) -> int:
    (directory / "conftest.py").write_text(CONFTEST.read_text())
    (directory / "test_one.py").write_text(body)
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(directory)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(argv, cwd=directory, env=environment, capture_output=True, check=False).returncode


def test_a_skip_fails_the_run(tmp_path: Path) -> None:
    assert run_pytest(tmp_path, "import pytest\ndef test_it(): pytest.skip('no')\ndef test_that(): pass\n") == 1


def test_a_run_without_skips_passes(tmp_path: Path) -> None:
    assert run_pytest(tmp_path, "def test_it(): pass\n") == 0
