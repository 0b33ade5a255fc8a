# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask an installed Postfix, through its own postconf and postmap: what is configured, what a table holds."""

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from acme_milter.program import Outcome, ProgramAbsent, ProgramFault, run_program
from acme_milter.quoting import quoted

LISTABLE = frozenset({"hash", "btree", "lmdb", "sdbm", "dbm", "texthash", "inline"})
"""Table types whose keys `postmap -s` can walk through; the others only answer questions (DATABASE_README)."""

_PROXY = re.compile(r"(proxy|proxywrite):")
_NOT_LISTABLE = re.compile("sequence operation is not supported|can't sequence|next support requires")
_SEPARATORS = ", \t\r\n"


class PostfixFault(Exception):
    """postconf or postmap gave no usable answer; the text says which, and in whose words."""

    safe_text = True


class PostfixAbsent(PostfixFault):
    """There is no Postfix, or none that was configured."""


class NotListable(PostfixFault):
    """The table answers questions, but cannot be walked through."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The keys of a table, in its own order, and what postmap warned of."""

    keys: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Postfix:
    """The instance of `config_directory`, or the machine's default one. `timeout` is for each program, in seconds."""

    config_directory: Path | None
    timeout: float

    def parameters(self, *names: str) -> dict[str, str]:
        """The values of parameters with every $name put in; an unknown one is left out. Raises PostfixFault."""
        argv = ["postconf", *self._where(), "-x", *names]
        outcome = self._run(argv)
        if outcome.status != 0 and any("main.cf: No such file" in line for line in outcome.error_lines()):
            raise PostfixAbsent(_complaint(argv, outcome))
        if outcome.status != 0:
            raise PostfixFault(_complaint(argv, outcome))
        pairs = (line.partition(" =") for line in outcome.output.decode("utf-8", "replace").splitlines())
        return {name: value.strip() for name, equals, value in pairs if equals}

    def keys_of(self, table: str) -> Listing:
        """Every key of a table. Raises NotListable, and PostfixFault when the table cannot be opened or read."""
        argv = ["postmap", *self._where(), "-s", direct(table)]
        if direct(table).partition(":")[0] not in LISTABLE:
            raise NotListable(f"Postfix cannot list {table}")
        outcome = self._run(argv)
        if _NOT_LISTABLE.search(outcome.errors.decode("utf-8", "replace")):
            raise NotListable(f"Postfix cannot list {table}")
        if outcome.status != 0:
            raise PostfixFault(_complaint(argv, outcome))
        if outcome.output and not outcome.output.endswith(b"\n"):
            raise PostfixFault(f"{' '.join(argv)} ended in the middle of a line")
        lines = outcome.output.decode("utf-8", "replace").split("\n")[:-1]
        return Listing(tuple(line.partition("\t")[0] for line in lines), tuple(map(quoted, outcome.error_lines())))

    def find(self, table: str, keys: Iterable[str]) -> set[str]:
        """Those of `keys` that the table knows, asked all at once. Raises PostfixFault, also when it broke off."""
        asked = [key for key in keys if key.isprintable()]
        argv = ["postmap", *self._where(), "-q", "-", direct(table)]
        outcome = self._run(argv, given="".join(f"{key}\n" for key in asked).encode())
        # Status 1 is "none of them" as well as "could not ask"; only the latter is called fatal.
        if outcome.status not in {0, 1} or any(": fatal: " in line for line in outcome.error_lines()):
            raise PostfixFault(_complaint(argv, outcome))
        return {line.partition("\t")[0] for line in outcome.output.decode("utf-8", "replace").splitlines()}

    def question(self, key: str, table: str) -> str:
        """The command with which a person asks the same; a local part may hold what a shell would carry out."""
        return shlex.join(["postmap", *self._where(), "-q", key, direct(table)])

    def _where(self) -> Sequence[str]:
        return ["-c", str(self.config_directory)] if self.config_directory is not None else []

    def _run(self, argv: Sequence[str], given: bytes = b"") -> Outcome:
        try:
            return run_program(argv, timeout=self.timeout, given=given)
        except ProgramAbsent as absence:
            raise PostfixAbsent(str(absence)) from None
        except ProgramFault as fault:
            raise PostfixFault(f"{fault} ({quoted(' '.join(argv))})") from None


class TableRound:
    """Questions to many tables, each asked once for all of its keys; a table that fails is remembered, not raised."""

    def __init__(self, postfix: Postfix) -> None:
        self.postfix = postfix
        self._found: dict[str, set[str]] = {}
        self._faults: dict[str, str] = {}

    def ask(self, table: str, keys: Iterable[str]) -> None:
        """Ask a table, once more if it was asked for other keys before, but never one that has failed."""
        if table in self._faults:
            return
        try:
            self._found.setdefault(table, set()).update(self.postfix.find(table, keys))
        except PostfixFault as fault:
            self._faults[table] = str(fault)

    def knows(self, table: str, key: str) -> bool:
        """Whether the table had that key when it was asked."""
        return key in self._found.get(table, ())

    def fault(self, table: str) -> str | None:
        """Why the table could not be asked."""
        return self._faults.get(table)


def direct(table: str) -> str:
    """The table without the proxymap service in between, whose socket is for Postfix's own user alone."""
    return _PROXY.sub("", table, count=1) if _PROXY.match(table) else table


def is_table(item: str) -> bool:
    """Whether an item of a list is TYPE:NAME rather than a domain or a file of domains."""
    return ":" in item and not item.startswith("/")


def split_list(value: str) -> list[str]:
    """The items of a parameter: separated by commas and blanks, but not inside of braces (postconf(5))."""
    items: list[str] = []
    word, depth = "", 0
    for char in value:
        depth += (char == "{") - (char == "}" and depth > 0)
        if char in _SEPARATORS and depth == 0:
            items.append(word)
            word = ""
        else:
            word += char
    return [item for item in [*items, word] if item]


def _complaint(argv: Sequence[str], outcome: Outcome) -> str:
    lines = outcome.error_lines()
    said = next((line for line in lines if ": fatal: " in line), lines[-1] if lines else "it said nothing")
    return f"{quoted(' '.join(argv))}: {outcome.ending}: {quoted(said)}"
