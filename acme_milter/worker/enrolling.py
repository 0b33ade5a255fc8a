# SPDX-License-Identifier: GPL-3.0-or-later
"""Opening enrollments because a person asked: what `enroll` and `cert issue` want of a running worker."""

from collections.abc import Callable
from datetime import datetime
from typing import cast

from acme_milter.config.schema import Config
from acme_milter.enrollment.kinds import in_use, opening_of, usages_of
from acme_milter.enrollment.model import Cause
from acme_milter.eventlog import Event, log_event
from acme_milter.store import audit, enrollments
from acme_milter.store.database import Database
from acme_milter.worker.choice import Choosing
from acme_milter.worker.rehearsing import rehearse

AT_ONCE = 100
"""Enrollments in one transaction: a challenge mail's commit must not wait longer than a fraction of a second."""


class Enrolling:
    """Answers the control socket's call ``enroll``."""

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        database: Database,
        clock: Callable[[], datetime],
        work_is_due: Callable[[], None],
        choosing: Choosing | None = None,
    ) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._work_is_due = work_is_due
        self._choosing = choosing or Choosing(config)

    def answer(self, header: dict[str, object]) -> dict[str, object]:
        """``addresses``: at most some thousands. ``again``: even where a certificate is active.

        ``staging``: at its authority's staging service, where nothing that a mailbox has is in the way.
        """
        addresses = [str(address) for address in cast("list[object]", header.get("addresses") or [])]
        again = bool(header.get("again"))
        results: list[dict[str, object]] = []
        for start in range(0, len(addresses), AT_ONCE):
            some = addresses[start : start + AT_ONCE]
            results += self._rehearse_some(some) if header.get("staging") else self._enroll_some(some, again=again)
        opened_count = sum(result["outcome"] == "opened" for result in results)
        if opened_count:
            log_event(Event.ENROLLMENT_OPENED, count=opened_count)
        self._work_is_due()
        return {"results": results}

    def _rehearse_some(self, addresses: list[str]) -> list[dict[str, object]]:
        with self._database.write() as connection:
            return [rehearse(connection, self._config(), address, self._clock()) for address in addresses]

    def _enroll_some(self, addresses: list[str], *, again: bool) -> list[dict[str, object]]:
        config = self._config()
        results: list[dict[str, object]] = []
        with self._database.write() as connection:
            for address in addresses:
                member = config.member(address)
                policy = None if member is None else config.policy_for(member.address)
                if member is None or policy is None:
                    results.append({"address": address, "outcome": "not-managed", "id": None})
                    continue
                mailbox, now = member.address, self._clock()
                authority = self._choosing.for_new(connection, policy, now, Cause.ASKED)
                # One order is enough, and so is one certificate, whichever authority of its list it comes from.
                listed = [e for e in enrollments.of_mailbox(connection, mailbox) if e.authority in policy.authorities]
                known = [e for e in listed if e.authority == authority]
                known += [e for e in listed if e.authority != authority]
                open_one = next((e for e in known if e.is_open), None)
                held = in_use(known, {member.principal})
                opening = opening_of(usages_of(policy.certificate.layout), held, again=again)
                if open_one is not None:
                    results.append({"address": mailbox, "outcome": "already-open", "id": open_one.id})
                elif opening is None:
                    first = next(iter(held.values()))
                    results.append({"address": mailbox, "outcome": "already-active", "id": first.id})
                else:
                    opened = enrollments.open_new(
                        connection,
                        address=mailbox,
                        principal=member.principal,
                        authority=authority,
                        now=now,
                        replaces_id=opening.replaces_id,
                        usage=opening.usage,
                    )
                    audit.record(connection, Event.ENROLLMENT_OPENED, at=now, enrollment_id=opened.id, address=mailbox)
                    results.append({"address": mailbox, "outcome": "opened", "id": opened.id})
        return results
