# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailboxes from a database: the tables of a known product, or a query of the administrator's own."""

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from acme_milter.config.secret import SecretUnavailable
from acme_milter.config.sources import SqlSource as SqlSection
from acme_milter.mailboxes.source import Gathering, Reading, SourceFault
from acme_milter.quoting import quoted

if TYPE_CHECKING:
    import sqlalchemy as sa

_PRESETS = Path(__file__).with_name("sql_presets")
_BATCH = 1000
_COLUMNS = frozenset(
    {"address", "local_part", "domain", "id", "name", "first_name", "last_name", "groups", "aliases", "active"}
)
_YES = frozenset({"1", "t", "true", "y", "yes", "on"})
_NO = frozenset({"0", "f", "false", "n", "no", "off", ""})


@dataclass(frozen=True, slots=True)
class SqlPreset:
    """How a product lists its mailboxes: ``query`` for its ``tables``."""

    product: str
    tables: tuple[str, ...]
    query: str


def preset(name: str) -> SqlPreset:
    """The preset of that name, one of config.sources.TABLE_PRESETS."""
    document = yaml.safe_load((_PRESETS / f"{name}.yaml").read_text(encoding="utf-8"))
    return SqlPreset(document["product"], tuple(document["tables"]), document["query"])


def entries_of_preset(source: str, url: str, preset_name: str, timeout: timedelta) -> Reading:
    """List the mailboxes of a product's database. ``url`` is SQLAlchemy's. Raises SourceFault."""
    chosen = preset(preset_name)
    hint = f"is this the database of {chosen.product}? The preset reads {', '.join(chosen.tables)}; else write a query"
    return _read(source, url, chosen.query, timeout, hint)


class SqlSource:
    """A section of type ``sql``."""

    def __init__(self, name: str, section: SqlSection) -> None:
        self.name = name
        self._section = section

    def read(self) -> Reading:
        """Run the list query. Raises SourceFault."""
        section = self._section
        try:
            url = section.url_text() or ""
        except SecretUnavailable as reason:
            raise SourceFault(self.name, f"url: {reason}") from None
        if section.preset is not None:
            return entries_of_preset(self.name, url, section.preset, section.timeout)
        return _read(self.name, url, section.query or "", section.timeout, "correct query")


def _read(source: str, url: str, query: str, timeout: timedelta, hint: str) -> Reading:
    from acme_milter.mailboxes.sql_connection import reading

    gathering = Gathering(source)
    deadline = time.monotonic() + timeout.total_seconds()
    with reading(source, url, timeout, hint) as connection:
        # A cursor on the server's side, so that 100 000 rows are never here at once; and the query exactly as it was
        # written: neither % nor : means a parameter.
        options = {"stream_results": True, "yield_per": _BATCH, "no_parameters": True}
        with connection.exec_driver_sql(query.strip().rstrip(";"), execution_options=options) as result:
            if not result.returns_rows:
                raise SourceFault(source, "query is no SELECT: it returned no table")
            columns = _known_columns(source, list(result.keys()), gathering)
            for number, row in enumerate(result, 1):
                if number % _BATCH == 0 and time.monotonic() > deadline:
                    raise SourceFault(source, f"only {number} rows within {timeout.total_seconds():g} s; raise timeout")
                _take(gathering, _named(columns, row), number)
    return gathering.reading()


def _known_columns(source: str, found: Sequence[str], gathering: Gathering) -> list[str]:
    columns = [name.lower() for name in found]
    if "address" not in columns and not {"local_part", "domain"} <= set(columns):
        shown = quoted(", ".join(found))
        raise SourceFault(source, f"query yields no column address (it yields: {shown}); write: SELECT … AS address")
    if twice := sorted({name for name in columns if name in _COLUMNS and columns.count(name) > 1}):
        raise SourceFault(source, f"query yields {', '.join(twice)} more than once; name each column once")
    if unknown := [name for name in columns if name not in _COLUMNS]:
        gathering.remark(f"these columns of the query are not used: {quoted(', '.join(unknown))}")
    return columns


def _named(columns: Sequence[str], row: "sa.Row[Any]") -> dict[str, object]:
    return {name: value for name, value in zip(columns, row, strict=True) if name in _COLUMNS}


def _take(gathering: Gathering, row: Mapping[str, object], number: int) -> None:
    place = f"row {number}"
    address = _address(row)
    if address is None:
        gathering.reject(place, "the address is NULL")
        return
    active = _truth(row["active"]) if "active" in row else True
    if active is None:
        gathering.reject(address, f"{place}: active is neither true nor false")
    elif active:
        gathering.add(
            address,
            id=_text(row.get("id")),
            name=_text(row.get("name")) or _full_name(row),
            groups=_several(row.get("groups")),
            aliases=_several(row.get("aliases")),
            place=place,
        )


def _address(row: Mapping[str, object]) -> str | None:
    if "address" in row:
        return _text(row["address"])
    local_part, domain = _text(row["local_part"]), _text(row["domain"])
    return None if local_part is None or domain is None else f"{local_part}@{domain}"


def _full_name(row: Mapping[str, object]) -> str | None:
    parts = (_text(row.get(column)) for column in ("first_name", "last_name"))
    return " ".join(filter(None, parts)) or None


def _text(value: object) -> str | None:
    """A column as text. Databases give numbers, UUIDs, and octets where a column has no character set."""
    if value is None:
        return None
    if isinstance(value, bytes | bytearray | memoryview):
        octets = bytes(value)
        try:
            return octets.decode("utf-8")
        except UnicodeDecodeError:
            return str(uuid.UUID(bytes=octets)) if len(octets) == 16 else octets.hex()
    return str(value)


def _several(value: object) -> Iterable[str]:
    """An array of the database's, or names with commas between them."""
    if value is None:
        return ()
    if isinstance(value, list | tuple | set):
        return [text for text in map(_text, value) if text]
    return (_text(value) or "").split(",")


def _truth(value: object) -> bool | None:
    word = str(value).strip().lower() if value is not None else None
    return True if word in _YES else False if word in _NO else None
