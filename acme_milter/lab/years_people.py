# SPDX-License-Identifier: GPL-3.0-or-later
"""Who works where, and when they come and go: an organization's people over years, drawn from a seed."""

import csv
import io
import os
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

DOMAIN = "org.example"
MONTH = timedelta(days=30)
HOUR = timedelta(hours=1)
REUSED = 5
"""One joiner in so many gets the address of somebody who has left, as organizations do with `sales` or `j.smith`."""

QUIET = timedelta(days=2)
"""So long before the end nobody comes or goes any more: what is to follow from it would not be seen."""


@dataclass(frozen=True, slots=True)
class Person:
    """Times are since the first day; nothing before which somebody `joined` means: there from the beginning."""

    id: str
    address: str
    joined: timedelta
    left: timedelta | None = None

    def present(self, at: timedelta) -> bool:
        return self.joined <= at and (self.left is None or at < self.left)


def draw_people(mailboxes: int, length: timedelta, *, seed: int, monthly: float = 0.02) -> tuple[Person, ...]:
    """`mailboxes` people on the first day; then `monthly` of that number join, and as many leave, every 30 days."""
    dice = random.Random(seed)  # noqa: S311 -- who leaves is no secret
    people = {f"p{number}": Person(f"p{number}", _address(number), timedelta()) for number in range(mailboxes)}
    free: list[str] = []
    for at, joins in _moves(mailboxes * monthly, length, dice):
        if joins:
            name = f"p{len(people)}"
            reused = free and len(people) % REUSED == 0
            address = free.pop(dice.randrange(len(free))) if reused else _address(len(people))
            people[name] = Person(name, address, at)
        else:
            leaver = dice.choice([person for person in people.values() if person.present(at)])
            people[leaver.id] = Person(leaver.id, leaver.address, leaver.joined, at)
            free.append(leaver.address)
    return tuple(people.values())


def _address(number: int) -> str:
    return f"user{number}@{DOMAIN}"


def _moves(each_month: float, length: timedelta, dice: random.Random) -> list[tuple[timedelta, bool]]:
    """(when, whether somebody joins) in order of time. What is less than one a month is carried over."""
    moves = []
    owed = 0.0
    month = timedelta(0)
    while month < length:
        owed += each_month
        span = min(MONTH, length - QUIET - month)
        for joins in [True, False] * int(owed) if span > HOUR else ():
            at = month + HOUR * dice.randrange(1, int(span / HOUR) + 1)
            moves.append((max(at, QUIET), joins))
        owed -= int(owed)
        month += MONTH
    return sorted(moves)


def moves_of(people: Sequence[Person]) -> list[timedelta]:
    """The moments at which somebody comes or goes, in order."""
    joined = {person.joined for person in people if person.joined}
    return sorted(joined | {person.left for person in people if person.left is not None})


def write_csv(path: Path, people: Iterable[Person], at: timedelta) -> None:
    """The people who are there at that time, as a source of type csv reads them; replaced whole.

    It looks a minute old: the source waits, in real time, for a file that is still being written.
    """
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["address", "id"])
    table.writerows((person.address, person.id) for person in people if person.present(at))
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text.getvalue(), encoding="utf-8")
    a_minute_ago = time.time() - 60
    os.utime(beside, (a_minute_ago, a_minute_ago))
    beside.replace(path)
