# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules of the house that a machine can check (docs/architecture.md, "Rooms")."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "acme_milter"

LAYERS = {
    "cli": 8,
    "lab": 7,
    "worker": 6,
    "milter": 6,
    "report": 5,
    "mailboxes": 4,
    "delivery": 4,
    "keys": 3,
    "store": 3,
    "config": 3,
    "enrollment": 2,
    "protocol": 1,
    "certificate": 1,
    "acme": 1,
    "ldap_connection": 1,
    "clock": 0,
    "eventlog": 0,
    "ipc": 1,
    "lock_file": 0,
    "program": 0,
    "quoting": 0,
}
"""A room may import from rooms of a lower number, and from itself. The test CA is beside them all."""


PURE = ("protocol", "certificate", "enrollment")
IMPURE = {"socket", "sqlite3", "requests", "Milter", "logging", "time", "subprocess", "threading", "dns"}

SOURCES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def rooms_imported(path: Path) -> set[str]:
    ours = {name.split(".")[1] for name in imports_of(path) if name.startswith("acme_milter.")}
    return ours - {room_of(path)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    if room in {"__init__", "__main__"}:
        return
    if room == "testca":
        assert rooms_imported(path) == set(), "the test CA shares no code with the client"
        return
    starts_testca = {"testca"} if path.name == "testca.py" and room == "cli" else set()
    for other in rooms_imported(path) - starts_testca:
        assert LAYERS[other] < LAYERS[room], f"{room} may not import {other}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_pure_rooms_do_no_io(path: Path) -> None:
    if room_of(path) in PURE:
        assert {name.split(".")[0] for name in imports_of(path)} & IMPURE == set()


def test_one_file_knows_libmilter() -> None:
    users = [path for path in SOURCES if {"Milter", "milter"} & {name.split(".")[0] for name in imports_of(path)}]
    assert [str(path.relative_to(PACKAGE)) for path in users] == ["milter/edge.py"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_file_names_its_licence_and_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# SPDX-License-Identifier: GPL-3.0-or-later\n")
    assert ast.get_docstring(ast.parse(text))


def test_no_room_for_leftovers() -> None:
    assert not [path for path in SOURCES if path.stem in {"utils", "helpers", "manager", "common", "misc"}]
