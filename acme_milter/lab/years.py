# SPDX-License-Identifier: GPL-3.0-or-later
"""Five years of an organization in minutes: `python -m acme_milter.lab.years`, which script/years runs.

Renewals, joiners and leavers, an outage of the CA, a replacement of every certificate; at the end a judgement from
the store. docs/years.md says what is real in it and what its figures mean.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from acme_milter.lab.processes import ProcessFault
from acme_milter.lab.virtual_clock import VirtualClock
from acme_milter.lab.years_drive import Drive
from acme_milter.lab.years_evidence import Evidence, Span
from acme_milter.lab.years_judgement import judge, show
from acme_milter.lab.years_people import draw_people, write_csv
from acme_milter.lab.years_site import AUTHORITY, YearsSite, terms_for
from acme_milter.report.plan import Selection
from acme_milter.store.bulk_runs import Kind

DAY = timedelta(days=1)
OUTAGE = 3 * DAY
BROKEN = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a run is. The outage begins after `outage_at` of its length, the replacement after `replace_at`."""

    mailboxes: int
    length: timedelta
    seed: int
    lifetime: timedelta = 180 * DAY
    monthly: float = 0.02
    outage_at: float = 0.25
    replace_at: float = 0.5


class Years:
    """One run in `directory`, from the first day to the judgement."""

    def __init__(self, directory: Path, size: Size) -> None:
        self._directory = directory
        self._size = size
        self._terms = terms_for(size.mailboxes, size.lifetime, size.monthly)
        self._people = draw_people(size.mailboxes, size.length, seed=size.seed, monthly=size.monthly)
        self._clock = VirtualClock()
        self._site = YearsSite(directory, self._people, self._terms, self._clock)
        self._outage: Span | None = None
        self._replacement: Span | None = None

    def run(self) -> Evidence:
        """Live through it all. Raises ProcessFault when something does not start or stands still."""
        started = time.monotonic()
        self._directory.mkdir(parents=True, exist_ok=True)
        write_csv(self._site.csv_path, self._people, timedelta())
        with self._site:
            drive = Drive(self._site, self._people, _say, length=self._size.length)
            try:
                evidence = self._live(drive, started)
            finally:
                drive.close()
        evidence.write(self._directory)
        return evidence

    def _live(self, drive: Drive, started: float) -> Evidence:
        size, began = self._size, drive.began
        end = began + size.length
        drive.pass_while(lambda: drive.watch.members() < size.mailboxes, "the first reading", most=2 * DAY)
        first_issue = self._first_issue(drive)
        self._plan_outage(drive, began + size.outage_at * size.length)
        replace_at = began + size.replace_at * size.length
        drive.pass_until(replace_at)
        replacement = self._replace(drive)
        drive.pass_until(end)
        drive.come_to_rest()
        self._site.stop_worker()
        authority = self._site.authority
        assert self._outage is not None
        return Evidence(
            people=self._people,
            span=Span(began, end),
            first_issue=first_issue,
            outage=self._outage,
            replacement=replacement,
            grace=self._terms.grace,
            certificates=authority.certificates(),
            orders=authority.orders(),
            seconds=time.monotonic() - started,
        )

    def _plan_outage(self, drive: Drive, begin: datetime) -> None:
        self._outage = Span(begin, begin + OUTAGE)
        drive.at(begin, lambda: self._site.outage(begins=True))
        drive.at(begin + OUTAGE, lambda: self._site.outage(begins=False))

    def _first_issue(self, drive: Drive) -> Span:
        """Everybody who is there on the first day."""
        return self._in_bulk(drive, Selection(), Kind.ISSUE)

    def _replace(self, drive: Drive) -> Span:
        """Everything the authority has issued until now is to be revoked, as in May 2026."""
        selection = Selection(authority=AUTHORITY, issued_before=self._clock.now())
        return self._in_bulk(drive, selection, Kind.REPLACE, revoke="superseded")

    def _in_bulk(self, drive: Drive, selection: Selection, kind: Kind, revoke: str | None = None) -> Span:
        begin = self._clock.now()
        number = self._site.bulk(selection, kind, revoke)
        _say(f"{begin:%Y-%m}  a bulk run ({kind}) of {number} mailboxes")
        drive.pass_while(drive.watch.bulk_is_open, "the bulk run", most=10 * DAY)
        return Span(begin, self._clock.now())


def _say(line: str) -> None:
    print(line, flush=True)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="script/years", description="Years of an organization in minutes.")
    parser.add_argument("--mailboxes", type=int, default=2000, help="on the first day (default: 2000)")
    parser.add_argument("--days", type=int, default=1826, help="of virtual time (default: 1826, five years)")
    parser.add_argument("--monthly", type=float, default=2, help="percent that join, and leave, a month (default: 2)")
    parser.add_argument("--seed", type=int, default=1, help="of who comes and goes, and when (default: 1)")
    parser.add_argument("--lifetime", type=int, default=180, help="days that a certificate is valid (default: 180)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in this new directory, and leave it")
    parser.add_argument("--judge", type=Path, metavar="DIR", help="only judge what a run with --keep left there")
    arguments = parser.parse_args(argv)
    if arguments.mailboxes < 1 or arguments.days < 30 or arguments.lifetime < 10:
        parser.error("at least 1 mailbox, 30 days and a lifetime of 10 days")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run and judge; 0 when every promise was kept, 1 when not."""
    arguments = _arguments(argv)
    if arguments.judge is not None:
        return _judge(arguments.judge)
    size = Size(
        mailboxes=arguments.mailboxes,
        length=arguments.days * DAY,
        seed=arguments.seed,
        lifetime=arguments.lifetime * DAY,
        monthly=arguments.monthly / 100,
    )
    scratch = arguments.keep or Path(tempfile.mkdtemp(prefix="years-"))
    try:
        return _run(scratch, size)
    except ProcessFault as fault:
        print(f"years: {fault}", file=sys.stderr)
        return BROKEN
    finally:
        if arguments.keep is None:
            shutil.rmtree(scratch, ignore_errors=True)


def _run(directory: Path, size: Size) -> int:
    _say(f"{size.mailboxes} mailboxes, {size.length / DAY:.0f} days, certificates of {size.lifetime / DAY:.0f} days")
    Years(directory, size).run()
    return _judge(directory)


def _judge(directory: Path) -> int:
    evidence = Evidence.read(directory)
    span = evidence.span
    _say(
        f"\n{span.begin:%Y-%m-%d} to {span.end:%Y-%m-%d}, {len(evidence.people)} people, {len(evidence.orders)} orders"
        f" in {evidence.seconds:.0f} s: {len(evidence.orders) / evidence.seconds:.1f} orders a second"
    )
    return 0 if show(judge(directory / "store.db", evidence), _say) else BROKEN


if __name__ == "__main__":
    sys.exit(main())
