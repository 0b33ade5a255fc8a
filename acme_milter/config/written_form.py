# SPDX-License-Identifier: GPL-3.0-or-later
"""A value as an administrator writes it: `30d`, `0660`, `{file: PATH}`; the way back from the typed values."""

from collections.abc import Mapping
from datetime import timedelta
from enum import Enum
from pathlib import Path

from acme_milter.config.database_url import without_password
from acme_milter.config.patterns import Pattern
from acme_milter.config.secret import SecretSource
from acme_milter.config.section import Section
from acme_milter.config.values import Endpoint

_UNITS = (("w", 7 * 86_400), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))


def written_form(value: object, key: str = "") -> object:
    """`value` of the key called `key`, in what YAML and JSON have: text, number, boolean, null, list, map.

    A secret is its reference; a URL's password is left out.
    """
    match value:
        case Pattern():
            return value.text if value.group_name is None else {"group": value.group_name}
        case SecretSource():
            return {name: str(part) for name, part in value if part is not None}
        case Section():
            return {name: written_form(part, name) for name, part in value}
        case timedelta():
            return duration(value)
        case Enum() | Path() | Endpoint():
            return str(value.value if isinstance(value, Enum) else value)
        case int() if key == "socket_mode":
            return f"{value:04o}"
        case str() if key == "url":
            return without_password(value)
        case tuple() | list():
            return [written_form(each) for each in value]
        case Mapping():
            return {str(name): written_form(part) for name, part in value.items()}
        case _:
            return value


def duration(value: timedelta) -> str:
    """The shortest text that means this time: 30d, not 720h; a whole number of years is one only from a year on."""
    milliseconds = value // timedelta(milliseconds=1)
    seconds, rest = divmod(milliseconds, 1000)
    if rest:
        return f"{milliseconds}ms"
    if seconds and seconds % (365 * 86_400) == 0:
        return f"{seconds // (365 * 86_400)}y"
    unit, length = next(((u, n) for u, n in _UNITS[1:] if seconds and seconds % n == 0), ("s", 1))
    return f"{seconds // length}{unit}"


def one_line(value: object) -> str:
    """What `written_form` gave, for a line of text: lists with commas, maps in braces."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case list():
            return ", ".join(map(one_line, value)) if value else "[]"
        case dict():
            return "{" + ", ".join(f"{key}: {one_line(part)}" for key, part in value.items()) + "}"
        case _:
            return str(value)
