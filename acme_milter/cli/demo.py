# SPDX-License-Identifier: GPL-3.0-or-later
"""`demo`: the product at work on this machine's loopback, with real programs and an authority of its own."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from acme_milter.cli.enroll import ask_for, follow
from acme_milter.cli.exit_codes import ExitCode
from acme_milter.cli.progress import Ending, LiveView, PlainView, View
from acme_milter.cli.table import Column, print_table
from acme_milter.lab.processes import ProcessFault
from acme_milter.lab.showcase import Finding, Traffic, describe_inbox, judge, latest_enrollments
from acme_milter.lab.system import Lab
from acme_milter.store.overview import Overview

DOMAINS = {
    "org.example": [
        "alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy", "mallory", "niaj", "olivia",
    ],
    "branch.example": [
        "peggy", "quentin", "rupert", "sybil", "trent", "ursula", "victor", "walter", "xenia", "yves", "zoe", "info",
    ],
}  # fmt: skip
FORGED_TO = "grace@org.example"
FOREIGN_TO = "victor@branch.example"
TIMEOUT = 120.0
COLUMNS = (
    Column("mailbox"),
    Column("serial", spare=1),
    Column("not after", spare=4),
    Column("seconds", right=True),
    Column("challenge", spare=2),
    Column("reply", spare=3),
    Column("inbox"),
)


@click.command()
@click.option("--keep", is_flag=True, help="Leave the directory with all logs, mailboxes and the store.")
@click.pass_context
def demo(context: click.Context, keep: bool) -> None:
    """Order 25 certificates for 25 mailboxes of two domains from a test CA, on a private Postfix; needs root."""
    if os.geteuid() != 0:
        click.echo(
            "demo: Postfix starts only as root; run this as root (nothing outside one directory is changed)", err=True
        )
        context.exit(ExitCode.PERMISSION)
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    directory = Path(tempfile.mkdtemp(prefix="acme-milter-demo-"))
    console.print(
        f"A private Postfix, OpenDKIM, a name server and a test CA start on the loopback, all of it in {directory}.\n"
        "The Postfix of this machine, if it has one, is neither asked nor changed."
    )
    try:
        kept_all = _show(console, directory)
    except ProcessFault as fault:
        click.echo(f"demo: {fault}", err=True)
        kept_all = False
    finally:
        if keep:
            console.print(f"\nEverything is left in {directory}. To look around:", soft_wrap=True)
            console.print(f"  acme-milter --config {directory}/acme-milter.yaml status", soft_wrap=True)
            console.print(f"  less {directory}/acme-milter.log {directory}/postfix/maillog", soft_wrap=True)
        else:
            shutil.rmtree(directory, ignore_errors=True)
    context.exit(ExitCode.OK if kept_all else ExitCode.FAILED)


def _show(console: Console, directory: Path) -> bool:
    lab = Lab(
        directory,
        domains=DOMAINS,
        reply_dkim="relay",
        authority={"post_delay": "1s"},
        # A second or two on the way, as on the internet, so that there is something to watch.
        knobs={"MAIL_REORDER": 100, "FINALIZE_ASYNC": 100, "FINALIZE_POLLS": 1},
    )
    began = time.monotonic()
    with lab:
        # Three of five by name; the others are what `bulk` shows.
        named = [address for number, address in enumerate(lab.addresses) if number % 5 < 3]
        console.print(f"All is up after {time.monotonic() - began:.1f} s. {len(named)} mailboxes want a certificate:\n")
        traffic = Traffic(lab)
        traffic.start()
        results = ask_for(lab.config, named, again=False)
        traffic.send_hostile(FORGED_TO, FOREIGN_TO)
        view: View = LiveView(console) if sys.stdout.isatty() else PlainView()
        with view:
            _, ending = follow(lab.config, [str(result["id"]) for result in results], view, timeout=TIMEOUT)
        all_ran = _show_bulk(console, lab, len(lab.addresses) - len(named))
        traffic.finish()
        rows = latest_enrollments(lab)
        console.print()
        print_table(console, COLUMNS, [_cells(lab, traffic, row) for row in rows])
        findings = judge(lab, traffic, rows, FORGED_TO, FOREIGN_TO)
        _tell(console, findings)
    kept_all = all_ran and ending is Ending.DONE and all(finding.kept for finding in findings)
    if kept_all:
        console.print(_NEXT)
    return kept_all


def _show_bulk(console: Console, lab: Lab, others: int) -> bool:
    """The rest of the mailboxes as an organization's are done: first a plan, then a run."""
    console.print(f"\nThe other {others} as those of a whole organization, by a plan and a run:")
    plan = str(lab.directory / "plan.json")
    for arguments in (("bulk", "plan", "--missing", "-o", plan), ("bulk", "run", plan, "--yes")):
        console.print(f"\n$ acme-milter {' '.join(arguments)}", soft_wrap=True)
        sys.stdout.flush()
        if subprocess.run(lab.command(*arguments), check=False, timeout=TIMEOUT).returncode != ExitCode.OK:
            return False
    return True


def _cells(lab: Lab, traffic: Traffic, row: Overview) -> tuple[str, ...]:
    return (
        row.address,
        (row.serial or row.last_error or "")[:16],
        row.not_after.date().isoformat() if row.not_after else "",
        f"{(row.state_since - row.opened_at).total_seconds():.1f}",
        row.challenge_queue_id or "",
        row.reply_queue_id or "",
        describe_inbox(lab, traffic, row.address),
    )


def _tell(console: Console, findings: Sequence[Finding]) -> None:
    console.print()
    for finding in findings:
        mark = "[green]yes[/]" if finding.kept else "[red]NO[/] "
        console.print(f" {mark}  {finding.promise} ({finding.evidence})")


_NEXT = """
This was a toy CA. On a real machine:
  1. write /etc/acme-milter/acme-milter.yaml     start from acme-milter.yaml
  2. acme-milter check                           names every fault with its line
  3. acme-milter run                             or the units of contrib/systemd
  4. add contrib/postfix's lines to Postfix      and know those that undo them
  5. acme-milter enroll --wait you@your.domain   mode: observe only watches
README.md has it in full."""
