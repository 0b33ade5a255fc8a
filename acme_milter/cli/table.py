# SPDX-License-Identifier: GPL-3.0-or-later
"""A table that fits: on a narrow terminal columns are left out, in a pipe each row is one whole line."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

GAP = 2
FOLDED = 24
"""What the last column is content with on a terminal, where it may take several lines."""


@dataclass(frozen=True, slots=True)
class Column:
    """`spare`: columns with the highest number are left out first, those with 0 never. Only the last one folds."""

    name: str
    spare: int = 0
    right: bool = False


def print_table(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print `rows`, whose cells are text and no markup, as wide as the terminal allows.

    The last column, for remarks, is left out when nothing stands in it.
    """
    names = [column.name for column in columns]
    widths = [max(map(cell_len, cells)) for cells in zip(names, *rows, strict=True)]
    chosen = list(range(len(columns)))
    if not any(row[-1] for row in rows):
        chosen.pop()
    elif console.is_terminal:
        widths[-1] = min(widths[-1], FOLDED)
    while console.is_terminal and _width(widths, chosen) > console.width:
        spare = [index for index in chosen if columns[index].spare]
        if not spare:
            break
        chosen.remove(max(spare, key=lambda index: columns[index].spare))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index in chosen:
        justify: Literal["right", "left"] = "right" if columns[index].right else "left"
        table.add_column(names[index], justify=justify, no_wrap=index != len(columns) - 1, overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[index]) for index in chosen))
    if not console.is_terminal:
        console = Console(file=console.file, width=_width(widths, chosen))
    console.print(table, soft_wrap=False)


def _width(widths: Sequence[int], chosen: Sequence[int]) -> int:
    return sum(widths[index] for index in chosen) + GAP * (len(chosen) - 1)
