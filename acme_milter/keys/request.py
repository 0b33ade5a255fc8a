# SPDX-License-Identifier: GPL-3.0-or-later
"""A request to keyd, read strictly: what is missing, of another type or too long is refused by the field's name."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from acme_milter.keys.refusal import KeydRefused

Answer = tuple[dict[str, object], bytes]
MemberT = TypeVar("MemberT", bound=StrEnum)

MAX_TEXT = 1000
MAX_TEXTS = 16


class Request:
    """The header's fields, the body's parts, and the open file that came with them."""

    __slots__ = ("_body", "_file", "_header")

    def __init__(self, header: Mapping[str, object], body: bytes, file: int | None = None) -> None:
        self._header = header
        self._body = body
        self._file = file

    def text(self, name: str) -> str:
        """A printable text of 1 to MAX_TEXT characters."""
        return _text(self._header.get(name), name)

    def texts(self, name: str) -> list[str]:
        """1 to MAX_TEXTS such texts."""
        value = self._header.get(name)
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_TEXTS:
            raise KeydRefused(f"malformed request: {name}")
        return [_text(item, name) for item in value]

    def member(self, kind: type[MemberT], name: str, default: MemberT | None = None) -> MemberT:
        """One of an enumeration's values; `default` where the field is absent."""
        if default is not None and name not in self._header:
            return default
        try:
            return kind(_text(self._header.get(name), name))
        except ValueError:
            raise KeydRefused(f"malformed request: no such {name}") from None

    def flag(self, name: str, *, default: bool) -> bool:
        """A boolean; `default` where the field is absent."""
        value = self._header.get(name, default)
        if not isinstance(value, bool):
            raise KeydRefused(f"malformed request: {name}")
        return value

    def file(self) -> int:
        """The descriptor of the open file that came along; whoever handed us the request closes it."""
        if self._file is None:
            raise KeydRefused("malformed request: no open file")
        return self._file

    def parts(self, *counts: int) -> list[bytes]:
        """The body's parts, exactly as many as one of `counts` and nothing besides."""
        parts = split_parts(self._header, self._body)
        if parts is None or len(parts) not in counts:
            raise KeydRefused("malformed request: parts")
        return parts


def split_parts(header: Mapping[str, object], body: bytes) -> list[bytes] | None:
    """The body cut at the lengths in the header's "parts"; None when these do not add up to it."""
    lengths = header.get("parts")
    if not isinstance(lengths, list):
        return None
    parts: list[bytes] = []
    position = 0
    for length in lengths:
        if type(length) is not int or length < 0:
            return None
        parts.append(body[position : position + length])
        position += length
    return parts if position == len(body) else None


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEXT or not value.isprintable():
        raise KeydRefused(f"malformed request: {name}")
    return value
