# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with a configuration, and where: one value per fault, all of them at once."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One fault. `line` counts from 1, 0 stands for the file as a whole; `key` is a dotted path or empty."""

    line: int
    key: str
    message: str
    file: Path

    def __str__(self) -> str:
        """`acme-milter.yaml:14: domains.example.org.mailbox: unknown key`, the form editors jump to."""
        place = f"{self.file}:{self.line}" if self.line else f"{self.file}"
        line = f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"
        # A path from the file may hold anything; a terminal shows it as what it is.
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


class ConfigFaults(Exception):
    """The configuration cannot be used; `faults` holds every reason, file by file, in the order of each.

    The texts never hold a value from a place where a secret could have been written, so they may be logged.
    """

    safe_text = True

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(sorted(set(faults), key=lambda fault: (fault.file, fault)))
        super().__init__("\n".join(map(str, self.faults)))
