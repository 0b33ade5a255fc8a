# SPDX-License-Identifier: GPL-3.0-or-later
"""YAML into a tree that remembers its lines, without YAML 1.1's surprises.

A plain scalar is a boolean only as `true` or `false`, an integer only as decimal digits without a leading zero, empty
as `null` or `~`; everything else is text: `no`, `on`, `off`, `12:30`, `0660`, `1e3` and `2026-11-22` stay what they
look like. Tags and merge keys are faults, an alias stands for its anchor's value.

PyYAML's scanner and parser do the reading; the tree is put together here because its own composer drops duplicate
keys in silence and recurses as deep as the document tells it to.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

# Steps that pydantic puts into the path of a fault in a union: `reply.dkim`, a source's `url`.
UNION_TAGS = frozenset(
    {"key", "relay", "url-secret", "url-text", "files", "hook", "ldap", "ad", "signing-milter", "smimea"}
)
MAX_DEPTH = 40
MAX_NODES = 5_000_000  # also counts what aliases repeat


class Place(NamedTuple):
    """Where something stands. Line 0 is the file as a whole, an empty key all of it."""

    line: int
    key: str = ""
    file: Path | None = None


Complain = Callable[[Place, str], None]
"""Takes the place and the text of a fault."""

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})\Z")
_TAB = "a tab cannot indent in YAML (use spaces)"
_STRING_TAG = "tag:yaml.org,2002:str"
# libyaml is some twenty times quicker on a list of 100 000 mailboxes; PyYAML can be built without it.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True)
class Node:
    """A value and its line. `value` is text, int, bool or None, a list of Nodes, or a dict of them.

    `key_lines` has the line of each key of a mapping; `size` counts the nodes below, with repetitions. `file` is set
    where another file's tree begins.
    """

    line: int
    value: "str | int | bool | list[Node] | dict[str, Node] | None"
    key_lines: dict[str, int] = field(default_factory=dict)
    size: int = 1
    file: Path | None = None

    def plain(self) -> Any:
        """The value without lines."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def mapping(self) -> "Mapping[str, Node]":
        """The entries of a mapping, none when this is anything else."""
        return self.value if isinstance(self.value, dict) else {}

    def at(self, *steps: str | int) -> "Node":
        """The value that a path leads to; null where there is none."""
        node = self
        for step in steps:
            if isinstance(step, int):
                node = node.value[step] if isinstance(node.value, list) and step < len(node.value) else Node(0, None)
            else:
                node = node.mapping().get(step, Node(0, None))
        return node


class DocumentError(Exception):
    """The text is not YAML that we read at all; `line` counts from 1."""

    safe_text = True

    def __init__(self, line: int, message: str) -> None:
        self.line = line
        super().__init__(message)


def read_document(text: str, complain: Complain, file: Path | None = None) -> Node:
    """The tree of the one YAML document in `text`; an empty one is an empty mapping. `file` goes into the places.

    What does not hinder further reading (a duplicate key, a tag) goes to `complain`; raises DocumentError for the rest.
    """
    loader = _Loader(text)
    try:
        return _Composer(loader, complain, file).document()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise DocumentError(line, "a control character or a character YAML does not allow") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        last = max(text.count("\n") + (not text.endswith("\n")), 1)
        raise DocumentError(min(mark.line + 1, last) if mark else 1, _syntax_text(error, text)) from None
    finally:
        loader.dispose()


def _syntax_text(error: yaml.MarkedYAMLError, text: str) -> str:
    mark = error.problem_mark
    if "tab character" in str(error.problem):
        return _TAB
    if mark is not None and "cannot start any token" in str(error.problem):
        lines = text.splitlines()
        character = lines[mark.line][mark.column : mark.column + 1] if mark.line < len(lines) else ""
        if character == "\t":
            return _TAB
        return f"a value cannot begin with {character!r} (put it in quotes)"
    return f"not valid YAML: {error.context + ': ' if error.context else ''}{error.problem}"


class _Composer:
    """Puts the parser's events together. Recursion is bounded by MAX_DEPTH."""

    def __init__(self, loader: Any, complain: Complain, file: Path | None) -> None:
        self._loader = loader
        self._complain = complain
        self._file = file
        self._anchors: dict[str, Node | None] = {}  # None while the anchored value is still being read
        self._path: list[str] = []

    def document(self) -> Node:
        loader = self._loader
        loader.get_event()  # the stream's start
        if loader.check_event(yaml.StreamEndEvent):
            return Node(1, {}, file=self._file)
        loader.get_event()  # the document's start
        node = self._node(loader.get_event())
        loader.get_event()  # the document's end
        if not loader.check_event(yaml.StreamEndEvent):
            line = loader.get_event().start_mark.line + 1
            raise DocumentError(line, "a second document begins here; only one is read")
        top = Node(1, {}) if node.value is None else node
        top.file = self._file
        return top

    def _node(self, event: Any) -> Node:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, line)
        if len(self._path) > MAX_DEPTH:
            raise DocumentError(line, f"nested more than {MAX_DEPTH} levels deep")
        if event.tag not in (None, "!", _STRING_TAG):
            self._complain(self._place(line), "tags (!name) are not used here")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            plain = event.implicit[0] and event.tag is None
            node = Node(line, _plain_value(event.value) if plain else event.value)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(line)
        else:
            node = self._mapping(line)
        if node.size > MAX_NODES:
            raise DocumentError(line, "too large (aliases of aliases?)")
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: Any, line: int) -> Node:
        node = self._anchors.get(event.anchor)
        if node is None:
            what = "stands inside its own anchor" if event.anchor in self._anchors else "has no anchor before it"
            raise DocumentError(line, f"an alias (*name) {what}")
        return node

    def _events(self, end: type[Any]) -> Iterator[Any]:
        while not self._loader.check_event(end):
            yield self._loader.get_event()
        self._loader.get_event()

    def _sequence(self, line: int) -> Node:
        items: list[Node] = []
        for event in self._events(yaml.SequenceEndEvent):
            self._path.append(f"[{len(items)}]")
            items.append(self._node(event))
            self._path.pop()
        return Node(line, items, size=1 + sum(item.size for item in items))

    def _mapping(self, line: int) -> Node:
        entries: dict[str, Node] = {}
        key_lines: dict[str, int] = {}
        for event in self._events(yaml.MappingEndEvent):
            key_line = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent):
                raise DocumentError(key_line, "a key must be plain text")
            key = event.value
            self._path.append(key)
            node = self._node(self._loader.get_event())
            if key == "<<":
                self._complain(self._place(key_line), "merge keys are not supported (repeat the lines)")
            elif key in entries:
                self._complain(self._place(key_line), f"duplicate key (first in line {key_lines[key]})")
            else:
                entries[key] = node
                key_lines[key] = key_line
            self._path.pop()
        return Node(line, entries, key_lines, 1 + sum(node.size for node in entries.values()))

    def _place(self, line: int) -> Place:
        return Place(line, dotted(self._path), self._file)


def dotted(path: list[str]) -> str:
    """`domains.example.org.mailboxes.list[3]`, with nothing in it that could disturb a terminal."""
    joined = ".".join(path).replace(".[", "[")
    return joined if joined.isprintable() else ascii(joined)[1:-1]


def locate(top: Node, place: Sequence[str | int]) -> Place:
    """Where a path leads to; steps that were not written count for their parent's line."""
    node, line, path, file = top, top.line, list[str](), top.file
    for position, step in enumerate(place):
        if isinstance(step, str) and step in node.mapping():
            line, node = node.key_lines[step], node.mapping()[step]
            path.append(step)
        elif isinstance(step, int) and isinstance(node.value, list) and step < len(node.value):
            node = node.value[step]
            line = node.line
            path.append(f"[{step}]")
        elif position == len(place) - 1 and isinstance(step, str) and step not in UNION_TAGS:
            path.append(step)
        if node.file is not None and node.file is not file:  # a domain's own file: its keys begin there
            line, file, path = node.line, node.file, []
    return Place(line, dotted(path), file)


def _plain_value(text: str) -> str | int | bool | None:
    match text:
        case "true":
            return True
        case "false":
            return False
        case "" | "~" | "null":
            return None
        case _:
            return int(text) if _INTEGER.match(text) else text
