# SPDX-License-Identifier: GPL-3.0-or-later
"""`report coverage` and `report expiring`: for the eye, for scripts, and for a spreadsheet."""

import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import click

from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.filters import DURATION
from acme_milter.cli.table import Column, show_table
from acme_milter.cli.view import make_view, print_document

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
_CSV = click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values with a line of names.")
_COUNTS = ("managed", "with_certificate", "open", "failed", "without", "gone")
_COVERAGE = (
    Column("domain"),
    Column("mailboxes", right=True),
    Column("certificate", right=True),
    Column("open", right=True),
    Column("failed", right=True),
    Column("without", right=True),
    Column("gone", right=True),
    Column("share", right=True),
    Column(""),
)
_EXPIRING = (
    Column("mailbox"),
    Column("not after"),
    Column("days", right=True),
    Column("authority", spare=2),
    Column("serial", spare=3),
    Column("remark"),
)
_EXPIRING_NAMES = (
    "address",
    "domain",
    "authority",
    "serial",
    "not_after",
    "days_left",
    "renewal_due_at",
    "successor_open",
    "managed",
)


@click.command()
@_JSON
@_CSV
@click.pass_context
def coverage(context: click.Context, as_json: bool, as_csv: bool) -> None:
    """Count for each domain its mailboxes, those with a valid certificate, and why the others have none."""
    config = load_config_or_exit(context)
    document: dict[str, Any] = make_view(context, config, "coverage")
    rows = list(document["domains"])
    if len(rows) > 1:
        rows.append({"domain": "all", **document["total"]})
    if as_json:
        print_document(document)
    elif as_csv:
        _print_csv(("domain", *_COUNTS), document["domains"])
    else:
        show_table(_COVERAGE, [(row["domain"], *(str(row[name]) for name in _COUNTS), _share(row), "") for row in rows])


def _share(row: Mapping[str, Any]) -> str:
    return f"{row['with_certificate'] / row['managed']:.1%}" if row["managed"] else "-"


@click.command()
@click.option(
    "--within", type=DURATION, default="30d", show_default=True, metavar="TIME", help="What ends within TIME from now."
)
@_JSON
@_CSV
@click.pass_context
def expiring(context: click.Context, within: timedelta, as_json: bool, as_csv: bool) -> None:
    """List certificates in use that end soon, and what is planned for each."""
    config = load_config_or_exit(context)
    document: dict[str, Any] = make_view(context, config, "expiring", within_seconds=within.total_seconds())
    rows = document["certificates"]
    if as_json:
        print_document(document)
    elif as_csv:
        _print_csv(_EXPIRING_NAMES, rows)
    else:
        if rows:
            show_table(_EXPIRING, [_expiring_cells(row) for row in rows])
        click.echo(f"{len(rows)} certificates", err=True)


def _expiring_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    if not row["managed"]:
        remark = "not a managed mailbox"
    elif row["successor_open"]:
        remark = "its renewal is under way"
    else:
        due = row["renewal_due_at"]
        remark = f"renewal planned for {due[:10]}" if due else "no renewal planned"
    days = f"{row['days_left']:.1f}"
    return (row["address"], row["not_after"][:10], days, row["authority"], row["serial"], remark)


def _print_csv(names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    writer = csv.DictWriter(sys.stdout, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
