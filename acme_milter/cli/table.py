# SPDX-License-Identifier: GPL-3.0-or-later
"""A table that fits: on a narrow terminal columns are left out, in a pipe each row is one whole line.

Made without rich, whose import takes longer than most commands.
"""

import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

GAP = "  "
FOLDED = 24
"""What the last column is content with on a terminal, where it may take several lines."""


@dataclass(frozen=True, slots=True)
class Column:
    """`spare`: columns with the highest number are left out first, those with 0 never. Only the last one folds."""

    name: str
    spare: int = 0
    right: bool = False


def show_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print `rows` to standard output, as wide as the terminal allows."""
    is_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if is_terminal else None
    for number, line in enumerate(table_lines(columns, rows, width)):
        click.echo(click.style(line, bold=True) if is_terminal and number == 0 else line)


def print_table(console: "Console", columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """As `show_table`, to a console of rich."""
    width = console.width if console.is_terminal else None
    for number, line in enumerate(table_lines(columns, rows, width)):
        style = "bold" if number == 0 else None
        console.print(line, style=style, markup=False, highlight=False, emoji=False, soft_wrap=True)


def table_lines(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """The header and `rows` as lines of at most `width` cells; None is as wide as it takes.

    The last column, for remarks, is left out when nothing stands in it.
    """
    cells = [[_printable(cell) for cell in row] for row in rows]
    names = [column.name for column in columns]
    widths = [max(map(cell_width, column)) for column in zip(names, *cells, strict=True)]
    chosen = list(range(len(columns)))
    if not any(row[-1] for row in cells):
        chosen.pop()
    elif width is not None:
        widths[-1] = min(widths[-1], FOLDED)
    while width is not None and _total(widths, chosen) > width:
        spare = [index for index in chosen if columns[index].spare]
        if not spare:
            break
        chosen.remove(max(spare, key=lambda index: columns[index].spare))
    last = len(columns) - 1
    if width is not None and chosen[-1] == last:
        widths[last] += max(0, width - _total(widths, chosen))
    lines = []
    for row in [names, *cells]:
        fields = [_padded(row[index], widths[index], right=columns[index].right) for index in chosen if index != last]
        remark = row[last] if last in chosen else ""
        folded = textwrap.wrap(remark, widths[last]) if width is not None else [remark]
        indent = len(GAP.join([*fields, ""])) if fields else 0
        lines.append(GAP.join([*fields, *folded[:1]]).rstrip())
        lines += [" " * indent + more for more in folded[1:]]
    return lines


def cell_width(text: str) -> int:
    """How many cells of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _padded(text: str, width: int, *, right: bool) -> str:
    blanks = " " * (width - cell_width(text))
    return blanks + text if right else text + blanks


def _total(widths: Sequence[int], chosen: Sequence[int]) -> int:
    return sum(widths[index] for index in chosen) + len(GAP) * (len(chosen) - 1)
