# SPDX-License-Identifier: GPL-3.0-or-later
"""The output of a program as a source: a JSON object for each mailbox, one a line."""

import json

from acme_milter.config.sources import CommandSource
from acme_milter.mailboxes.source import Gathering, Reading, SourceFault
from acme_milter.program import ProgramFault, run_program
from acme_milter.quoting import quoted

_LISTS = ("groups", "aliases")
_KEYS = frozenset({"address", "id", "name", *_LISTS})


class CommandOutput:
    """Runs `argv` without a shell; what it says counts only when it ends well and its last line is whole."""

    def __init__(self, name: str, section: CommandSource) -> None:
        self.name = name
        self._argv = list(section.argv)
        self._timeout = section.timeout.total_seconds()

    def read(self) -> Reading:
        """Run it once. Raises SourceFault that names the program and, where one is wrong, the line of its output."""
        program = quoted(self._argv[0])
        try:
            outcome = run_program(self._argv, timeout=self._timeout, environment={"ACME_MILTER_SOURCE": self.name})
        except ProgramFault as fault:
            raise SourceFault(self.name, f"{fault}; run it by hand as the worker's user") from None
        if outcome.status != 0:
            said = outcome.error_lines()
            words = f": {quoted(said[-1])}" if said else " and nothing on standard error"
            raise SourceFault(self.name, f"{program} ended with {outcome.ending}{words}; its list was not used")
        if outcome.output and not outcome.output.endswith(b"\n"):
            raise SourceFault(
                self.name, f"{program}: the last line has no newline, so the list may be cut off; it was not used"
            )
        found = Gathering(self.name)
        for number, line in enumerate(outcome.output.split(b"\n")[:-1], 1):
            try:
                _take(line, number, found)
            except _BadLine as flaw:
                raise SourceFault(
                    self.name, f"{program}: line {number} of its output {flaw}; the list was not used"
                ) from None
        return found.reading()


class _BadLine(Exception):
    """The text says what the line is and quotes nothing of it but a key's name of ours."""


def _take(line: bytes, number: int, found: Gathering) -> None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise _BadLine("is not JSON") from None
    if not isinstance(record, dict):
        raise _BadLine('is no JSON object such as {"address": "ann@example.org"}')
    address = record.get("address")
    if not isinstance(address, str):
        raise _BadLine("has no address that is a string")
    for key in record.keys() - _KEYS:
        found.remark(f"the key {quoted(key)} is not used")
    found.add(
        address,
        id=_text(record, "id"),
        name=_text(record, "name"),
        groups=_texts(record, "groups"),
        aliases=_texts(record, "aliases"),
        place=f"line {number}",
    )


def _text(record: dict[str, object], key: str) -> str | None:
    value = record.get(key)
    if isinstance(value, int) and not isinstance(value, bool):  # a personnel number
        return str(value)
    if value is None or isinstance(value, str):
        return value
    raise _BadLine(f"has a {key} that is no string")


def _texts(record: dict[str, object], key: str) -> list[str]:
    value = record.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _BadLine(f"has {key} that are no list of strings")
    return value
