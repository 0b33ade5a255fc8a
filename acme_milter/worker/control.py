# SPDX-License-Identifier: GPL-3.0-or-later
"""The control socket's calls: what the command line asks of a running worker. Reading needs no worker at all."""

from collections.abc import Callable
from datetime import datetime
from typing import cast

from acme_milter.config.schema import Config
from acme_milter.enrollment.model import State
from acme_milter.eventlog import Event, log_event
from acme_milter.store import audit, enrollments
from acme_milter.store.database import Database

AT_ONCE = 100
"""Enrollments in one transaction: a challenge mail's commit must not wait longer than a fraction of a second."""


class Control:
    """Answers frames; ``handle`` is what an ipc.FrameServer wants. All writes of the command line pass here."""

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        database: Database,
        clock: Callable[[], datetime],
        work_is_due: Callable[[], None],
    ) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._work_is_due = work_is_due

    def handle(self, header: dict[str, object], _body: bytes) -> tuple[dict[str, object], bytes]:
        """Answer one frame; an unknown call gets ``{"error": …}``."""
        match header.get("call"):
            case "enroll":
                addresses = [str(address) for address in cast("list[object]", header.get("addresses") or [])]
                results = self._enroll(addresses, again=bool(header.get("again")))
                return {"results": results}, b""
            case "ping":
                return {"ok": True}, b""
            case _:
                return {"error": "unknown call"}, b""

    def _enroll(self, addresses: list[str], *, again: bool) -> list[dict[str, object]]:
        """Open an enrollment for each address. ``again``: even where a certificate is active."""
        results: list[dict[str, object]] = []
        for start in range(0, len(addresses), AT_ONCE):
            results += self._enroll_some(addresses[start : start + AT_ONCE], again=again)
        opened_count = sum(result["outcome"] == "opened" for result in results)
        if opened_count:
            log_event(Event.ENROLLMENT_OPENED, count=opened_count)
        self._work_is_due()
        return results

    def _enroll_some(self, addresses: list[str], *, again: bool) -> list[dict[str, object]]:
        results: list[dict[str, object]] = []
        with self._database.write() as connection:
            for address in addresses:
                mailbox = self._config().canonical(address)
                policy = None if mailbox is None else self._config().policy_for(mailbox)
                if mailbox is None or policy is None:
                    results.append({"address": address, "outcome": "not-managed", "id": None})
                    continue
                authority = policy.authorities[0]
                known = [e for e in enrollments.of_mailbox(connection, mailbox) if e.authority == authority]
                open_one = next((e for e in known if e.is_open), None)
                active = next((e for e in known if e.state is State.ACTIVE), None)
                if open_one is not None:
                    results.append({"address": mailbox, "outcome": "already-open", "id": open_one.id})
                elif active is not None and not again:
                    results.append({"address": mailbox, "outcome": "already-active", "id": active.id})
                else:
                    now = self._clock()
                    opened = enrollments.open_new(connection, address=mailbox, authority=authority, now=now)
                    audit.record(connection, Event.ENROLLMENT_OPENED, at=now, enrollment_id=opened.id, address=mailbox)
                    results.append({"address": mailbox, "outcome": "opened", "id": opened.id})
        return results
