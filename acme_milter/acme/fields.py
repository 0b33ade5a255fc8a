# SPDX-License-Identifier: GPL-3.0-or-later
"""Typed reading of the server's JSON objects: every field is checked once, here, and faults name the field."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import NoReturn, TypeVar

from acme_milter.acme.problem import BadAnswer, Problem, printable
from acme_milter.acme.urls import Origin

State = TypeVar("State", bound=StrEnum)
_MOST_ITEMS = 100
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)  # RFC 3339 §5.6


def parse_json_object(body: bytes, where: str) -> dict[str, object]:
    """Decode a UTF-8 JSON object. Raises BadAnswer for anything else: broken, too deep, NaN, not an object."""
    try:
        document = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise BadAnswer(f"{where}: JSON nested too deeply") from None
    except ValueError:
        raise BadAnswer(f"{where}: not JSON") from None
    if not isinstance(document, dict):
        raise BadAnswer(f"{where}: not a JSON object")
    return document


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(constant)


@dataclass(frozen=True, slots=True)
class Fields:
    """One JSON object of the server. `where` names it in faults; values never show in repr (tokens)."""

    where: str
    values: Mapping[str, object] = field(repr=False)
    origin: Origin

    def text(self, name: str) -> str:
        """A required string."""
        value = self.values.get(name)
        if not isinstance(value, str):
            raise self.fault(name, "missing" if value is None else "not a string")
        return value

    def optional_text(self, name: str) -> str | None:
        """A string, or None when absent or null."""
        return None if self.values.get(name) is None else self.text(name)

    def flag(self, name: str) -> bool:
        """A boolean, false when absent."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.fault(name, "not a boolean")
        return bool(value)

    def url(self, name: str) -> str:
        """A required URL on the directory's origin."""
        return self.origin.check(self.text(name), f"{self.where}: {name}")

    def optional_url(self, name: str) -> str | None:
        """A URL on the directory's origin, or None when absent or null."""
        return None if self.values.get(name) is None else self.url(name)

    def time(self, name: str) -> datetime | None:
        """An RFC 3339 timestamp as aware UTC, or None when absent or null."""
        value = self.optional_text(name)
        if value is None:
            return None
        if _TIMESTAMP.fullmatch(value):
            try:
                return datetime.fromisoformat(value.upper()).astimezone(UTC)
            except (ValueError, OverflowError):
                pass  # the 31st of February, the year 0
        raise self.fault(name, f"not a timestamp: {printable(value, 40)}")

    def items(self, name: str) -> list[object]:
        """A list of at most 100 values, empty when absent or null."""
        value = self.values.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.fault(name, "not a list")
        if len(value) > _MOST_ITEMS:
            raise self.fault(name, f"{len(value)} entries")
        return value

    def optional_object(self, name: str) -> "Fields | None":
        """A nested object, or None when absent or null."""
        value = self.values.get(name)
        return None if value is None else self.nested(value, name)

    def nested(self, value: object, name: str) -> "Fields":
        """Wrap a value that must be an object."""
        if not isinstance(value, dict):
            raise self.fault(name, "not an object")
        return Fields(f"{self.where}: {name}", value, self.origin)

    def state(self, states: type[State]) -> State:
        """The required `status`. RFC 8555 §7.1.6 closes the list: an unknown state fails, we never spin on it."""
        value = self.text("status")
        try:
            return states(value)
        except ValueError:
            raise self.fault("status", f"unknown state {printable(value, 40)}") from None

    def problem(self) -> Problem | None:
        """The `error` field of an order or challenge."""
        value = self.values.get("error")
        return None if value is None else Problem.parse(value)

    def fault(self, name: str, what: str) -> BadAnswer:
        """The exception to raise about the field `name`."""
        return BadAnswer(f"{self.where}: {name}: {what}")
