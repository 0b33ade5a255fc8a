# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses as arguments: each once, and "-" for those on standard input, one a line."""

import sys
from collections.abc import Iterator, Sequence

import click


def addresses_of(arguments: Sequence[str]) -> list[str]:
    """The addresses in their order. Raises click.UsageError when there is none."""
    found = list(dict.fromkeys(_read(arguments)))
    if not found:
        raise click.UsageError("no address was given")
    return found


def _read(arguments: Sequence[str]) -> Iterator[str]:
    for argument in arguments:
        if argument == "-":
            yield from (line.strip() for line in sys.stdin if line.strip() and not line.lstrip().startswith("#"))
        else:
            yield argument
