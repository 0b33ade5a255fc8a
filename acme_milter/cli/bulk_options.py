# SPDX-License-Identifier: GPL-3.0-or-later
"""What the commands of `bulk` have in common: dates, durations, lists in files, and the command to run next."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

import click

from acme_milter.cli.configured import DEFAULT_CONFIG, config_path
from acme_milter.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from acme_milter.config.schema import Config

MAX_LINES = 1_000_000


def moment(value: str) -> datetime:
    """2026-05-04, which is its first second in UTC, or any RFC 3339 time with its zone."""
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no date such as 2026-05-04 or 2026-05-04T15:00Z") from None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def span(value: str) -> timedelta:
    """A duration as the configuration has them: 30d."""
    from pydantic import TypeAdapter, ValidationError

    from acme_milter.config.values import Duration

    try:
        return TypeAdapter[timedelta](Duration).validate_python(value)
    except ValidationError:
        raise click.BadParameter(f"{value!r} is no duration such as 30d or 12h") from None


def lines_of(source: str) -> frozenset[str]:
    """What stands in a file, or for "-" on standard input, one a line; empty lines and comments aside."""
    with _opened(source) as lines:
        found = frozenset(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not found:
        raise click.UsageError(f"{source}: nothing stands in it")
    return found


def serials_in(source: str) -> frozenset[str]:
    """Serial numbers in hex, as certificates and authorities write them: colons, blanks, 0x, any case."""
    found = set()
    for line in lines_of(source):
        digits = line.lower().replace(":", "").replace(" ", "").removeprefix("0x").lstrip("0")
        if not digits or any(digit not in "0123456789abcdef" for digit in digits):
            raise click.UsageError(f"{source}: {line[:60]!r} is no serial number in hex")
        found.add(digits)
    return frozenset(found)


@contextmanager
def _opened(source: str) -> Iterator[TextIO]:
    if source == "-":
        yield sys.stdin
        return
    try:
        with Path(source).open(encoding="utf-8") as lines:
            yield lines
    except OSError as error:
        raise click.UsageError(f"{source}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"{source}: is no text in UTF-8") from None


def known_authority(config: "Config", name: str | None) -> str | None:
    """`name`, when it is configured; otherwise the end of the command."""
    if name is not None and name not in config.named_authorities:
        raise click.UsageError(f"authorities.{name} is not configured; there is: {', '.join(config.named_authorities)}")
    return name


def known_domains(config: "Config", names: tuple[str, ...]) -> frozenset[str]:
    """The domains as the configuration spells them; the end of the command when one is not configured."""
    found = frozenset(name.lower() for name in names)
    if unknown := sorted(found - set(config.policies)):
        raise click.UsageError(f"domains.{unknown[0]} is not configured; there is: {', '.join(config.policies)}")
    return found


def command_line(context: click.Context, *words: object) -> str:
    """A command to paste, with --config where it is needed."""
    import shlex

    path = config_path(context)
    options = [] if path == DEFAULT_CONFIG else ["--config", str(path)]
    return shlex.join(["acme-milter", *options, *(str(word) for word in words)])


def end(message: str, code: ExitCode = ExitCode.FAILED) -> NoReturn:
    """One line of standard error, and the command's end."""
    click.echo(message, err=True)
    raise click.exceptions.Exit(code)
