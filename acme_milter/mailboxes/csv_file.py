# SPDX-License-Identifier: GPL-3.0-or-later
"""A CSV file as a source, such as a personnel department exports it."""

import csv
import io
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from pathlib import Path

from acme_milter.config.sources import CsvSource
from acme_milter.mailboxes.source import Gathering, Reading, SourceFault
from acme_milter.quoting import quoted

MAX_OCTETS = 64 * 1024 * 1024
MAX_FIELD = 4096  # characters; a forgotten quotation mark would swallow the rest of the file
SETTLE = 1.0
"""Seconds that a file must have been left alone: a program that writes one pauses between its pieces."""

_COLUMNS = ("address", "id", "name", "given_name", "surname", "groups", "aliases", "start", "end")


def local_day() -> date:
    """Today where the machine is: a personnel file's dates are the office's."""
    return datetime.now().astimezone().date()


class CsvFile:
    """Reads `path` anew each time. `start` is a mailbox's first day, `end` its last; `today` says which day it is."""

    def __init__(
        self,
        name: str,
        section: CsvSource,
        *,
        today: Callable[[], date] = local_day,
        now: Callable[[], float] = time.time,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = name
        self._path = Path(section.path)
        self._delimiter = section.delimiter
        self._timeout = section.timeout.total_seconds()
        self._today = today
        self._now = now
        self._wait = wait

    def read(self) -> Reading:
        """Read the whole file. Raises SourceFault with file and line for whatever is not a table of mailboxes."""
        try:
            text = self._settled_text()
        except OSError as error:
            raise self._fault(0, f"{error.strerror}; the worker's user must be able to read it") from None
        rows = self._rows(text)
        _, header = next(rows, (0, []))
        columns = self._columns(header)
        found = Gathering(self.name)
        for unknown in [name for name in columns if name not in _COLUMNS]:
            found.remark(f"{self._path}: the column {quoted(unknown)} is not used")
        today, outside = self._today(), 0
        for line, row in rows:
            if len(row) != len(header):
                raise self._fault(line, f"{len(row)} fields instead of {len(header)}")
            cells = {name: row[index].strip() for name, index in columns.items()}
            outside += not _take(f"line {line}", cells, today, found)
        if outside:
            found.remark(f"{self._path}: {outside} mailboxes are not in use today, by their start and end")
        return found.reading()

    def _columns(self, header: list[str]) -> dict[str, int]:
        names = [cell.strip().lower() for cell in header]
        twice = sorted({name for name in names if names.count(name) > 1 and name})
        if twice:
            raise self._fault(1, f"the column {quoted(twice[0])} is there twice")
        if "address" not in names:
            other = next((mark for mark in ";,\t|" if mark in ",".join(names) and mark != self._delimiter), None)
            hint = f"; is it separated by {other!r}? write delimiter: {other!r}" if other and len(names) == 1 else ""
            raise self._fault(1, f"no column address among {quoted(', '.join(names)) or 'none'}{hint}")
        return {name: index for index, name in enumerate(names) if name}

    def _rows(self, text: str) -> Iterator[tuple[int, list[str]]]:
        """Each row that is not blank, with the number of the line it begins in."""
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=self._delimiter, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise self._fault(line, f"{error}; is a quotation mark missing?") from None
            if row is None:
                return
            if any(len(cell) > MAX_FIELD for cell in row):
                raise self._fault(line, "a field goes on over many lines; is a quotation mark missing?")
            if any(cell.strip() for cell in row):
                yield line, row

    def _settled_text(self) -> str:
        """The file once nobody has written into it for a second. Raises SourceFault, OSError."""
        if not stat.S_ISREG(self._path.stat().st_mode):  # a pipe would make us wait for ever
            raise self._fault(0, "is no regular file")
        waited = 0.0
        while 0 <= (age := self._now() - self._path.stat().st_mtime) < SETTLE:
            if waited > self._timeout:
                raise self._fault(0, f"was written into again and again for {self._timeout:g} s; it was not used")
            self._wait(SETTLE - age)
            waited += SETTLE - age
        with self._path.open("rb") as file:
            before = os.fstat(file.fileno())
            if before.st_size > MAX_OCTETS:
                raise self._fault(0, f"is larger than {MAX_OCTETS} octets")
            content = file.read(MAX_OCTETS + 1)
        after = self._path.stat()
        if _identity(before) != _identity(after) or len(content) != after.st_size:
            raise self._fault(0, "was changed while it was read; it was not used. The next reading may find it whole")
        return self._decoded(content)

    def _decoded(self, content: bytes) -> str:
        if not content:
            raise self._fault(0, "is empty, without even a line of column names; it was not used")
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise self._fault(1, "is UTF-16; save it as CSV UTF-8")
        if not content.endswith((b"\n", b"\r")):
            line = content.count(b"\n") + 1
            raise self._fault(line, "the last line has no newline: it is still being written, or needs one")
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise self._fault(content.count(b"\n", 0, error.start) + 1, "is not UTF-8; save it as CSV UTF-8") from None

    def _fault(self, line: int, what: str) -> SourceFault:
        return SourceFault(self.name, f"{self._path}{f':{line}' if line else ''}: {what}")


def _take(place: str, cells: Mapping[str, str], today: date, found: Gathering) -> bool:
    """Add a row; False when its mailbox is not in use today."""
    try:
        in_use = _day(cells, "start", date.min) <= today <= _day(cells, "end", date.max)
    except ValueError as flaw:
        found.reject(cells["address"] or place, f"{place}: {flaw}")
        return True
    if in_use:
        full_name = " ".join(filter(None, (cells.get("given_name"), cells.get("surname"))))
        groups = cells.get("groups", "").replace("|", ";").split(";")
        name = cells.get("name") or full_name
        aliases = cells.get("aliases", "").replace(";", " ").split()
        found.add(cells["address"], id=cells.get("id"), name=name, groups=groups, aliases=aliases, place=place)
    return in_use


def _day(cells: Mapping[str, str], column: str, otherwise: date) -> date:
    text = cells.get(column)
    if not text:
        return otherwise
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{column} is no date such as 2027-01-31") from None


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
