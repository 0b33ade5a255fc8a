# SPDX-License-Identifier: GPL-3.0-or-later
"""What `mailbox sync` and `hold release` want of a running worker."""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Any

from acme_milter.config.sources import LIST
from acme_milter.eventlog import Event, log_event
from acme_milter.mailboxes.asking import ask_about
from acme_milter.mailboxes.sync import Difference
from acme_milter.store import audit, holds
from acme_milter.store.database import Database
from acme_milter.worker.mailbox_keeping import MailboxKeeping, Outcome

SHOWN = 200
"""Addresses that an answer names of each kind, so that it fits into a frame; the counts are of all."""


PATIENCE = 10.0
"""Seconds for Postfix's answer about all of them."""


class MailboxCalls:
    """Answers the control socket's calls ``sync`` and ``release-hold``."""

    def __init__(
        self,
        *,
        keeping: MailboxKeeping,
        database: Database,
        clock: Callable[[], datetime],
        ask_for: Callable[[str], None],
    ) -> None:
        """``ask_for``: has a chore done as soon as its turn comes, by its name."""
        self._keeping = keeping
        self._database = database
        self._clock = clock
        self._ask_for = ask_for

    def sync(self, header: dict[str, object]) -> dict[str, object]:
        """``source``: one, or all of them. ``dry_run``: look, change nothing. Answers when each has been read."""
        names = self._keeping.names()
        wanted = header.get("source")
        if wanted is not None and wanted not in names:
            return {"error": "unknown source", "text": f"there is no source {wanted}; there are {', '.join(names)}"}
        chosen = names if wanted is None else [str(wanted)]
        look = self._keeping.preview if header.get("dry_run") else self._keeping.keep
        outcomes = _all_at_once(look, chosen)
        documents = [as_document(outcome, shown=SHOWN // len(outcomes)) for outcome in outcomes]
        if header.get("dry_run"):
            self._add_deliveries(
                [one for outcome, one in zip(outcomes, documents, strict=True) if outcome.source != LIST]
            )
        return {"sources": documents}

    def _add_deliveries(self, documents: Iterable[dict[str, Any]]) -> None:
        """What Postfix says of the new mailboxes that are shown, before anything is ordered for them."""
        rows = [row for document in documents if document["error"] is None for row in document["joined"]["shown"]]
        verdicts = ask_about(self._keeping.file(), [row["address"] for row in rows], PATIENCE)
        for row in rows:
            if (verdict := verdicts.get(row["address"])) is not None:
                row |= {"deliverability": verdict.deliverability, "why": verdict.why}

    def release_hold(self, header: dict[str, object]) -> dict[str, object]:
        """``names``: what is let through once. A result for each: released, or no-such-hold."""
        given = header.get("names")
        names = [str(name) for name in given] if isinstance(given, list) else []
        results: list[dict[str, object]] = []
        with self._database.write() as connection:
            for name in names:
                now = self._clock()
                known = holds.release(connection, name, now)
                results.append({"name": name, "outcome": "released" if known else "no-such-hold"})
                if known:
                    audit.record(connection, Event.HOLD_RELEASED, at=now, details={"name": name})
        for result in results:
            if result["outcome"] == "released":
                log_event(Event.HOLD_RELEASED, hold=result["name"])
        self._keeping.ask_for()
        self._ask_for("mailboxes")
        return {"results": results}


def _all_at_once(look: Callable[[str], Outcome], names: Sequence[str]) -> list[Outcome]:
    """Look at each source in a thread of its own. Not an executor's: Python would wait for those at its end, and so
    would the role's end for a source that takes its time.
    """

    def run(name: str, found: Future[Outcome]) -> None:
        try:
            found.set_result(look(name))
        except Exception as error:  # noqa: BLE001 the edge of the thread: raised again where it is waited for
            found.set_exception(error)

    futures: list[Future[Outcome]] = []
    for name in names:
        futures.append(Future())
        threading.Thread(target=run, args=(name, futures[-1]), name=f"look-{name}", daemon=True).start()
    return [found.result() for found in futures]


def as_document(outcome: Outcome, shown: int) -> dict[str, object]:
    """One source's part of acme-milter/mailbox-sync/1, with so many addresses of each kind."""
    found = outcome.difference
    if found is None:
        return {"source": outcome.source, "error": outcome.error}
    return {
        "source": outcome.source,
        "error": None,
        "number": found.number,
        **{kind: {"count": len(pairs), "shown": pairs[:shown]} for kind, pairs in _kinds(found).items()},
        "remarks": list(found.remarks),
        "holds": [
            {"name": stop.name, "reason": stop.reason, "size": stop.size, "held": stop.name in outcome.held}
            for stop in found.stops
        ],
    }


def _kinds(found: Difference) -> dict[str, list[dict[str, object]]]:
    return {
        "joined": [
            {"address": row.address, "as": row.came_as} for row in (*found.joined, *found.rejoined, *found.let_through)
        ],
        "missing": [{"address": row.address} for row in found.missing],
        "returned": [{"address": row.address} for row in found.returned],
        "left": [{"address": row.address} for row in found.left],
        "reassigned": [
            {"address": after.address, "from": before.principal, "to": after.principal} for before, after in found.moved
        ],
        "changed": [{"address": row.address} for row in found.changed],
        "respelled": [{"address": old, "to": new} for old, new in found.respelled],
        "excluded": [{"address": address, "reason": reason} for address, reason in found.excluded],
        "rejected": [{"address": text, "reason": reason} for text, reason in found.rejected],
    }
