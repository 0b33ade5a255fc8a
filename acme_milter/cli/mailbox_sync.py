# SPDX-License-Identifier: GPL-3.0-or-later
"""`mailbox sync`: what reading the sources changes, or would change."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from acme_milter.cli.ask_worker import ask_worker
from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.exit_codes import ExitCode
from acme_milter.cli.view import print_document
from acme_milter.ipc.client import FrameClient, PeerUnavailable

if TYPE_CHECKING:
    from acme_milter.config.schema import Config
    from acme_milter.store.database import Database

SCHEMA = "acme-milter/mailbox-sync/1"
PATIENCE = 600.0
"""Seconds; a directory of 100 000 takes its time."""

_LINES = {
    "joined": "+ {address}{as_}",
    "returned": "+ {address} is there again",
    "missing": "- {address} is not listed any more",
    "left": "- {address} leaves: its grace is over",
    "reassigned": "! {address} belongs to another person now: {to}, not {from_}",
    "changed": "~ {address}",
    "respelled": "~ {address} is now spelled {to}",
    "excluded": "x {address} {reason}",
    "rejected": "? {address} {reason}",
}
_MOST_REASONS = 5
_AS = {"import": "", "joiner": "", "waiting": " waits for a hold to be released"}


@click.command()
@click.option("--source", metavar="SOURCE", help="Only this one, by its name below sources; the lists are `list`.")
@click.option("--dry-run", is_flag=True, help="Show what would change, change nothing; needs no worker.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def sync(context: click.Context, source: str | None, dry_run: bool, as_json: bool) -> None:
    """Read the sources now, and show what has changed since they were last read.

    With --dry-run Postfix is asked about the new mailboxes that are shown: it is before every order, too.

    The worker does this by itself, each source as often as its `every` says. What a guard stops is shown with the
    command that lets it through. Exit status 3 when one of several sources could not be read, 1 when none could.
    """
    config = load_config_or_exit(context)
    document = _preview(config, source) if dry_run else None
    if document is None:
        document = ask_worker(config, "sync", patience=PATIENCE, source=source, dry_run=dry_run)
    parts: list[dict[str, Any]] = document["sources"]
    if as_json:
        print_document({"schema": SCHEMA, "dry_run": dry_run, "sources": parts})
    else:
        for part in parts:
            _show(part, dry_run=dry_run)
    failed = sum(part["error"] is not None for part in parts)
    if failed:
        context.exit(ExitCode.PARTLY if failed < len(parts) else ExitCode.FAILED)


def _preview(config: "Config", source: str | None) -> dict[str, Any] | None:
    """The difference, computed here where no worker runs; None when one does."""
    try:
        with FrameClient(config.worker.control_socket, timeout=2.0) as worker:
            worker.call({"call": "ping"})
    except PeerUnavailable:
        return _computed_here(config, source)
    return None


def _computed_here(config: "Config", source: str | None) -> dict[str, Any]:
    import sqlalchemy as sa

    from acme_milter.cli.store import reading_store
    from acme_milter.store.database import Database

    url = sa.make_url(config.store.url)
    if url.get_backend_name() != "sqlite" or Path(url.database or "").exists():
        with reading_store(config) as database:
            return _asked(config, database, source)
    # Before the first start there is no store; everything is new then.
    with TemporaryDirectory(prefix="acme-milter-") as place:
        database = Database(f"sqlite:///{place}/empty.db")
        try:
            database.upgrade()
            return _asked(config, database, source)
        finally:
            database.close()


def _asked(config: "Config", database: "Database", source: str | None) -> dict[str, Any]:
    from acme_milter.clock import Clock
    from acme_milter.worker.mailbox_calls import MailboxCalls
    from acme_milter.worker.mailbox_keeping import MailboxKeeping
    from acme_milter.worker.standing_config import StandingConfig

    clock = Clock()
    keeping = MailboxKeeping(
        standing=StandingConfig(config),
        database=database,
        clock=clock,
        somebody_came=lambda: None,
        somebody_went=lambda: None,
    )
    calls = MailboxCalls(keeping=keeping, database=database, clock=clock.now, ask_for=lambda _chore: None)
    answer = calls.sync({"source": source, "dry_run": True})
    if "text" in answer:
        click.echo(answer["text"], err=True)
        raise click.exceptions.Exit(ExitCode.FAILED)
    return answer


def _show(part: Mapping[str, Any], *, dry_run: bool) -> None:
    if part["error"] is not None:
        click.echo(f"{part['error']}; nothing is changed", err=True)
        return
    counts = ", ".join(f"{part[kind]['count']} {kind}" for kind in _LINES if part[kind]["count"])
    click.echo(f"{part['source']}: {part['number']} mailboxes; {counts or 'nothing has changed'}")
    for kind in _LINES:
        for line in _lines(kind, part[kind]):
            click.echo(f"  {line}")
    for remark in part["remarks"]:
        click.echo(f"  note: {remark}")
    for line in _on_delivery(part["joined"]["shown"]):
        click.echo(f"  {line}")
    for hold in part["holds"]:
        if hold["held"]:
            click.echo(f"  {'would be held' if dry_run else 'held'}: {hold['name']}: {hold['reason']}")
            click.echo(f"    if that is right, run: acme-milter hold release {hold['name']} --yes")


def _on_delivery(joined: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What Postfix does not know gets no order until it does; each such mailbox has a line. The rest by reason."""
    others: dict[str, int] = {}
    for one in joined:
        if one.get("deliverability") == "unknown":
            yield f"! {one['address']}: nothing can be ordered for it: {one['why']}"
        elif one.get("why"):
            others[one["why"]] = others.get(one["why"], 0) + 1
    for why, number in sorted(others.items(), key=lambda each: -each[1])[:_MOST_REASONS]:
        yield f"! whether mail for {number} of them arrives is not known: {why}"


def _lines(kind: str, found: Mapping[str, Any]) -> Iterator[str]:
    shown: Sequence[Mapping[str, Any]] = found["shown"]
    for one in shown:
        words = {"as_": _AS.get(one.get("as", ""), ""), "from_": one.get("from"), **one}
        yield _LINES[kind].format(**{key: value for key, value in words.items() if key not in {"as", "from"}})
    if found["count"] > len(shown):
        yield f"  … and {found['count'] - len(shown)} more"
