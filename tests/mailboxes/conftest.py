# SPDX-License-Identifier: GPL-3.0-or-later
"""A private Postfix configuration to ask, and programs that behave as badly as programs do."""

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

LONG_AGO = 1_700_000_000

MakePostfix = Callable[..., Path]
"""Makes a configuration directory: parameters by name, and files to be put into it by name."""

MakeProgram = Callable[[str], Path]
"""Makes an executable file of a shell script's lines."""


@pytest.fixture
def make_postfix(tmp_path: Path) -> MakePostfix:
    directory = tmp_path / "postfix"

    def make(files: Mapping[str, str] | None = None, **parameters: str) -> Path:
        """`hash:` and `btree:` in a parameter are compiled; `D` in a value stands for the directory."""
        directory.mkdir(exist_ok=True)
        (directory / "master.cf").touch()
        for name, text in (files or {}).items():
            (directory / name).write_text(text.replace("D/", f"{directory}/"))
        lines = ["compatibility_level = 3.6", "myhostname = mx.example.org", "mydestination ="]
        lines += [f"{name}_directory = {tmp_path / name}" for name in ("queue", "data")]
        lines += [f"{name} = {value.replace('D/', f'{directory}/')}" for name, value in parameters.items()]
        (directory / "main.cf").write_text("\n".join([*lines, ""]))
        # Postfix reads what was written in this second again and again, until it is sure to have it whole.
        for path in directory.iterdir():
            os.utime(path, (LONG_AGO, LONG_AGO))
        words = {
            word.removeprefix("proxy:") for value in parameters.values() for word in value.replace(",", " ").split()
        }
        for kind, _, name in (word.partition(":D/") for word in words):
            if kind in {"hash", "btree"} and (directory / name).exists():
                subprocess.run(["postmap", "-c", directory, f"{kind}:{directory / name}"], check=True)
        return directory

    return make


@pytest.fixture
def make_program(tmp_path: Path) -> MakeProgram:
    def make(body: str) -> Path:
        path = tmp_path / "list-mailboxes"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    return make
