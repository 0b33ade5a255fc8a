# SPDX-License-Identifier: GPL-3.0-or-later
"""The knobs' present values, and the dice."""

import difflib
import random
from collections.abc import Callable, Iterable, Mapping

from acme_milter.testca.knobs import KNOBS, KnobError, KnobValue


def parse_knob(name: str, value: object) -> tuple[str, KnobValue]:
    """Return name and value of one setting; KnobError lists the valid names or values."""
    knob = KNOBS.get(name.strip().upper())
    if knob is None:
        near = difflib.get_close_matches(name.upper(), KNOBS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise KnobError(f"{name}: no such knob{hint}; there are {', '.join(sorted(KNOBS))}, and ALL")
    return knob.name, knob.parse(value)


def parse_knobs(settings: Mapping[str, object]) -> dict[str, KnobValue]:
    """Parse several settings; `ALL` stands for every percentage and switch but CRASH. KnobError."""
    values: dict[str, KnobValue] = {}
    for name, value in settings.items():
        if name.strip().upper() == "ALL":
            values |= {knob.name: knob.parse(value) for knob in KNOBS.values() if knob.chance and knob.name != "CRASH"}
    for name, value in settings.items():
        if name.strip().upper() != "ALL":
            knob_name, parsed = parse_knob(name, value)
            values[knob_name] = parsed
    return values


def parse_settings(texts: Iterable[str]) -> dict[str, KnobValue]:
    """Parse `NAME=VALUE` words of the command line; KnobError."""
    settings = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise KnobError(f"{text}: write NAME=VALUE")
        settings[name] = value
    return parse_knobs(settings)


class Chaos:
    """Knob values; `strikes` throws the dice. One instance lives as long as the CA and is set while running."""

    def __init__(
        self,
        values: Mapping[str, KnobValue] | None = None,
        *,
        seed: int | None = None,
        on_strike: Callable[[str], object] | None = None,
    ) -> None:
        self._values: dict[str, KnobValue] = {name: knob.default for name, knob in KNOBS.items()} | dict(values or {})
        self._dice = random.Random(seed)  # noqa: S311 - which fault strikes is no secret
        self._on_strike = on_strike

    def set(self, values: Mapping[str, object]) -> None:
        """Set several knobs, all or none; KnobError."""
        self._values.update(parse_knobs(values))

    def reset(self) -> None:
        """Bring every knob back to its calm default."""
        self._values = {name: knob.default for name, knob in KNOBS.items()}

    def with_values(self, values: Mapping[str, object]) -> "Chaos":
        """Return a copy with other values, for one mail (same dice); KnobError."""
        other = Chaos(self._values, on_strike=self._on_strike)
        other._dice = self._dice
        other.set(values)
        return other

    def snapshot(self) -> dict[str, KnobValue]:
        """Return all present values."""
        return dict(self._values)

    def strikes(self, name: str) -> bool:
        """Throw the dice for a percentage or a switch."""
        share = float(self._values[name])
        hit = share > 0 and self._dice.random() * 100 < share
        if hit and self._on_strike is not None:
            self._on_strike(name)
        return hit

    def seconds(self, name: str) -> float:
        """Return a duration in seconds."""
        return float(self._values[name])

    def number(self, name: str) -> int:
        """Return a whole number."""
        return int(self._values[name])

    def word(self, name: str) -> str:
        """Return a word or free text."""
        return str(self._values[name])

    def uniform(self, low: float, high: float) -> float:
        """Return a random number between two bounds."""
        return self._dice.uniform(low, high)
