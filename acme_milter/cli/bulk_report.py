# SPDX-License-Identifier: GPL-3.0-or-later
"""`bulk report`: what became of each mailbox of a run, as CSV."""

import csv
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

import click

from acme_milter.cli.bulk_options import end
from acme_milter.cli.configured import load_config_or_exit

if TYPE_CHECKING:
    from acme_milter.store.bulk_tallies import ReportRow

FIELDS = (
    "address", "domain", "authority", "outcome", "reason", "serial", "not_after",
    "challenge_queue_id", "reply_queue_id",
)  # fmt: skip


@click.command()
@click.argument("run", required=False, metavar="[RUN]")
@click.option("--csv", "target", is_flag=False, flag_value="-", default="-", metavar="[FILE|-]", help="Where to write.")
@click.pass_context
def report(context: click.Context, run: str | None, target: str) -> None:
    """Write a line of CSV for each mailbox of RUN (default: the newest), in the order of its plan."""
    from acme_milter.cli.store import reading_store
    from acme_milter.report.bulk_progress import find_run
    from acme_milter.report.unanswerable import Unanswerable
    from acme_milter.store import bulk_tallies

    config = load_config_or_exit(context)
    with reading_store(config) as database, database.read() as connection:
        try:
            rows = bulk_tallies.report(connection, find_run(connection, run).id)
        except Unanswerable as error:
            end(str(error))
        if target == "-":
            _write(rows, sys.stdout)
            return
        try:
            with open(target, "w", encoding="utf-8", newline="") as out:  # noqa: PTH123 -- "-" was the other case
                _write(rows, out)
        except OSError as error:
            end(f"{target}: {error.strerror}")


def _write(rows: "Iterable[ReportRow]", out: TextIO) -> None:
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(FIELDS)
    for row in rows:
        writer.writerow(
            (
                _cell(row.address),
                row.domain,
                row.authority,
                row.outcome,
                _cell(row.reason),
                row.serial or "",
                row.not_after.isoformat() if row.not_after else "",
                row.challenge_queue_id or "",
                row.reply_queue_id or "",
            )
        )


def _cell(text: str | None) -> str:
    """An authority's words, or whatever a source calls an address: a spreadsheet must not take it for a formula."""
    return f"'{text}" if text and text[0] in "=+-@\t\r" else text or ""
