# SPDX-License-Identifier: GPL-3.0-or-later
"""The tree a YAML text becomes: YAML 1.1's surprises do not bite, lines are right, hostile texts end early."""

import time
from typing import Any

import pytest

from acme_milter.config.document import DocumentError, Node, locate, read_document


def read(text: str) -> tuple[Node, list[str]]:
    """The tree, and the complaints as `line: key: message`."""
    faults: list[str] = []
    return read_document(text, lambda at, message: faults.append(f"{at.line}: {at.key}: {message}")), faults


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("0", 0),
        ("-12", -12),
        ("10028", 10028),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("True", "True"),
        ("TRUE", "TRUE"),
        ("Null", "Null"),
        ("12:30", "12:30"),
        ("190:20:30", "190:20:30"),
        ("0660", "0660"),
        ("0o660", "0o660"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("1e3", "1e3"),
        ("1.0", "1.0"),
        ("+1", "+1"),
        (".inf", ".inf"),
        ("2026-11-22", "2026-11-22"),
        ("=", "="),
        ("'true'", "true"),
        ('"5"', "5"),
        ("!!str 5", "5"),
        ("! 5", "5"),
        ("|\n  two\n  lines", "two\nlines\n"),
        ("9" * 30, "9" * 30),
    ],
)
def test_a_scalar_is_what_it_looks_like(text: str, value: object) -> None:
    tree, faults = read(f"key: {text}\n")
    found = tree.plain()["key"]
    assert (found, type(found)) == (value, type(value))
    assert faults == []


def test_a_country_is_no_boolean_even_as_a_key() -> None:
    assert read("no: se\non: off\n5: five\n")[0].plain() == {"no": "se", "on": "off", "5": "five"}


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null", "\ufeff"])
def test_an_empty_document_is_an_empty_map(text: str) -> None:
    assert read(text.removeprefix("\ufeff"))[0].plain() == {}


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", ["5: b.c: duplicate key (first in line 3)"]),
        ("a: !!python/object:os.system x\n", ["1: a: tags (!name) are not used here"]),
        ("a: [1, !mine 2]\n", ["1: a[1]: tags (!name) are not used here"]),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", ["3: c.<<: merge keys are not supported (repeat the lines)"]),
    ],
)
def test_what_does_not_hinder_reading_is_complained_of_with_its_line(text: str, faults: list[str]) -> None:
    assert read(text)[1] == faults


def test_an_alias_stands_for_its_anchors_value() -> None:
    tree, faults = read("a: &list [x, y]\nb: *list\n")
    assert tree.plain() == {"a": ["x", "y"], "b": ["x", "y"]}
    assert faults == []


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: [1\n", 2, "not valid YAML"),
        ("a: 1\n\tb: 2\n", 2, "a tab cannot indent"),
        ("a: b: c\n", 1, "mapping values are not allowed"),
        ("a: 1\nb: @x\n", 2, "cannot begin with '@'"),
        ("a:\n  - x\nb: *nowhere\n", 3, "no anchor before it"),
        ("a: &a\n  b: *a\n", 2, "inside its own anchor"),
        ("a: 1\n---\nb: 2\n", 2, "a second document begins here"),
        ("a: 1\nb: \x1b[31m\n", 2, "control character"),
        ("a: 1\n[x]: 2\n", 2, "a key must be plain text"),
        ("? {a: b}\n: 2\n", 1, "a key must be plain text"),
        ("a: 'open\n", 1, "not valid YAML"),
        ("a: 1\n  b: 2\n", 2, "not valid YAML"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(DocumentError) as caught:
        read(text)
    assert words in str(caught.value)
    assert caught.value.line == line


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "- " * 100_000,
        "{a: " * 100_000,
        "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30)),
    ],
)
def test_deep_and_exploding_documents_end_early(text: str) -> None:
    began = time.monotonic()
    with pytest.raises(DocumentError, match=r"levels deep|too large"):
        read(text)
    assert time.monotonic() - began < 5


def test_locate_gives_the_line_of_a_key_an_item_or_the_nearest_thing_written() -> None:
    tree, _ = read("a:\n  b:\n    - x\n    - y\n  c: 1\n")
    cases: list[tuple[list[Any], tuple[int, str]]] = [
        (["a", "b"], (2, "a.b")),
        (["a", "b", 1], (4, "a.b[1]")),
        (["a", "d"], (1, "a.d")),
        (["a", "d", "e"], (1, "a.e")),
        (["z"], (1, "z")),
        (["a", "b", 7], (2, "a.b")),
    ]
    assert [locate(tree, place)[:2] for place, _ in cases] == [expected for _, expected in cases]


def test_a_key_cannot_disturb_a_terminal() -> None:
    _, faults = read('"\\e[31m": 1\n"\\e[31m": 2\n')
    assert faults == ["2: \\x1b[31m: duplicate key (first in line 1)"]
