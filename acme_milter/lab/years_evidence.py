# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run of years leaves behind for its judgement, in one file beside the store: people, times, the CA's books."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from acme_milter.lab.years_people import Person

FILE = "evidence.json"


@dataclass(frozen=True, slots=True)
class Span:
    """From `begin` on, until just before `end`; aware UTC."""

    begin: datetime
    end: datetime

    def holds(self, instant: datetime) -> bool:
        return self.begin <= instant < self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """`first_issue` and `replacement` are when orders went out in bulk, `outage` when the CA answered nothing useful.

    `certificates` and `orders` are the test CA's own books (its control face): dictionaries with ISO 8601 times.
    """

    people: Sequence[Person]
    span: Span
    first_issue: Span
    outage: Span
    replacement: Span
    grace: timedelta
    certificates: Sequence[Mapping[str, Any]]
    orders: Sequence[Mapping[str, Any]]
    seconds: float
    """How long the run took, of real time."""

    def moment(self, since_the_first_day: timedelta) -> datetime:
        return self.span.begin + since_the_first_day

    def write(self, directory: Path) -> None:
        document = asdict(self)
        (directory / FILE).write_text(json.dumps(document, default=_as_text, indent=1), encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Raises OSError when there is none."""
        document = json.loads((directory / FILE).read_text(encoding="utf-8"))
        spans = {
            name: Span(*(datetime.fromisoformat(document[name][end]) for end in ("begin", "end")))
            for name in ("span", "first_issue", "outage", "replacement")
        }
        people = [
            Person(one["id"], one["address"], _duration(one["joined"]), one["left"] and _duration(one["left"]))
            for one in document["people"]
        ]
        return cls(**(document | spans | {"people": people, "grace": _duration(document["grace"])}))


def _as_text(value: object) -> object:
    return value.total_seconds() if isinstance(value, timedelta) else _instant(value)


def _instant(value: object) -> str:
    assert isinstance(value, datetime)
    return value.astimezone(UTC).isoformat()


def _duration(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)
