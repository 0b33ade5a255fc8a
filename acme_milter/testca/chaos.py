# SPDX-License-Identifier: GPL-3.0-or-later
"""The knobs' present values, and the dice."""

import difflib
import random
from collections.abc import Callable, Mapping

from acme_milter.testca.knobs import KNOBS, KnobError, KnobValue


def parse_knob(name: str, value: object) -> tuple[str, KnobValue]:
    """Return name and value of one setting; KnobError lists the valid names or values."""
    knob = KNOBS.get(name.strip().upper())
    if knob is None:
        near = difflib.get_close_matches(name.upper(), KNOBS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise KnobError(f"{name}: no such knob{hint}; there are {', '.join(sorted(KNOBS))}")
    return knob.name, knob.parse(value)


def parse_setting(text: str) -> tuple[str, KnobValue]:
    """Parse `NAME=VALUE` of the command line; KnobError."""
    name, sign, value = text.partition("=")
    if not sign:
        raise KnobError(f"{text}: write NAME=VALUE")
    return parse_knob(name, value)


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
        parsed = dict(parse_knob(name, value) for name, value in values.items())
        self._values.update(parsed)

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
