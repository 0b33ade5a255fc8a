# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that make up a configuration: the main one, and one for each domain in `domains.d` beside it."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from acme_milter.config.crosscheck import same_domain
from acme_milter.config.document import Complain, DocumentError, Node, Place, read_document

MAX_BYTES = 64 * 1024 * 1024
DIRECTORY = "domains.d"
SUFFIX = ".yaml"


def read_text(path: Path, complain: Complain) -> tuple[str, int] | None:
    """A file's text and its mode, None after complaining that there is none to be had.

    A file that group or others can write is complained of: whoever edits it decides which mail disappears.
    """
    try:
        with open(path, "rb", opener=_at_once) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                complain(Place(0, "", path), "is no regular file")
                return None
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        complain(Place(0, "", path), f"cannot be read: {error.strerror}")
        return None
    _writable(path, mode, complain)
    if len(raw) > MAX_BYTES:
        complain(Place(0, "", path), f"is larger than {MAX_BYTES >> 20} MiB")
        return None
    try:
        return raw.decode("utf-8-sig"), mode
    except UnicodeDecodeError as error:
        complain(Place(raw.count(b"\n", 0, error.start) + 1, "", path), "is not UTF-8 text")
        return None


def _at_once(path: str, flags: int) -> int:
    """Open without waiting: at a pipe that nobody writes into, a reload would hang, and with it the role's end."""
    return os.open(path, flags | os.O_NONBLOCK)


def _writable(path: Path, mode: int, complain: Complain) -> None:
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        message = f"can be written by group or others (mode {stat.S_IMODE(mode):04o}); run: chmod go-w {path}"
        complain(Place(0, "", path), message)


def add_domain_files(top: Node, main: Path, complain: Complain) -> None:
    """Put every domain that has a file of its own below `domains`, as if it stood there.

    Each begins with `domain: NAME`; the domain's keys follow. A domain that is written elsewhere too is a fault.
    """
    section = top.mapping().get("domains", Node(0, None))
    if not isinstance(section.value, dict | None):
        return  # that is a fault already
    entries, lines = dict(section.mapping()), dict(section.key_lines)
    assert isinstance(top.value, dict)
    for path in _files(main.parent / DIRECTORY, complain):
        found = _read(path, complain)
        if found is None:
            continue
        name, node = found
        if name in entries:
            complain(Place(node.key_lines["domain"], "domain", path), same_domain(top, name, path))
            continue
        del node.mapping()["domain"]  # type: ignore[attr-defined]  # a dict of our own, seen as a mapping
        entries[name], lines[name] = node, node.key_lines["domain"]
        # Anew for each, so that the next one finds this one's place.
        top.value["domains"] = Node(section.line, entries, lines, section.size, section.file)
        top.key_lines.setdefault("domains", 0)


def _files(directory: Path, complain: Complain) -> Iterator[Path]:
    """In the order of their names; what an editor or a package manager leaves beside them is passed over."""
    try:
        names = sorted(entry.name for entry in directory.iterdir())
        _writable(directory, directory.stat().st_mode, complain)
    except FileNotFoundError:
        return
    except OSError as error:
        complain(Place(0, "", directory), f"cannot be read: {error.strerror}")
        return
    for name in names:
        if name.startswith("."):
            continue
        if name.endswith(".yml"):
            complain(Place(0, "", directory / name), f"is not read; its name must end in {SUFFIX}")
        elif name.endswith(SUFFIX):
            yield directory / name


def _read(path: Path, complain: Complain) -> tuple[str, Node] | None:
    text = read_text(path, complain)
    if text is None:
        return None
    try:
        node = read_document(text[0], complain, path)
    except DocumentError as error:
        complain(Place(error.line, "", path), str(error))
        return None
    name = node.mapping().get("domain")
    if name is None or not isinstance(name.value, str):
        line = node.line if name is None else name.line
        complain(Place(line, "domain", path), "is missing: a domain's file begins with domain: NAME, its keys follow")
        return None
    return name.value, node
