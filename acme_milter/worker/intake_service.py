# SPDX-License-Identifier: GPL-3.0-or-later
"""The intake socket's calls: what a milter asks (``managed``) and what it hands over (``candidate``)."""

import hashlib
from collections.abc import Callable

from acme_milter.config.schema import Config
from acme_milter.enrollment.gate import Envelope
from acme_milter.worker.intake import Candidate, Intake

PAGE = 500_000
"""Octets of addresses in one answer; a frame holds at most a mebibyte."""

LONGEST_WAIT = 4.0
"""Seconds for which a milter may wait for a change; it keeps one of the socket's threads busy."""

WaitWhile = Callable[[Config, float], None]
"""Returns when another configuration is in force, or after so many seconds."""


class IntakeService:
    """Answers frames; ``handle`` is what an ipc.FrameServer wants."""

    def __init__(self, config: Callable[[], Config], intake: Intake, *, wait_while: WaitWhile) -> None:
        self._config = config
        self._intake = intake
        self._wait_while = wait_while
        self._pages_of: tuple[Config, str, list[bytes]] | None = None

    def handle(self, header: dict[str, object], body: bytes) -> tuple[dict[str, object], bytes]:
        """Answer one frame; an unknown call gets ``{"error": …}``."""
        match header.get("call"):
            case "managed":
                return self._managed(header)
            case "candidate":
                decision = self._intake.decide(_candidate(header, body))
                return {"disposition": decision.disposition, "reason": str(decision.reason)}, b""
            case _:
                return {"error": "unknown call"}, b""

    def _managed(self, header: dict[str, object]) -> tuple[dict[str, object], bytes]:
        """The managed addresses in lower case, as Postfix folds ``{rcpt_addr}``, in pages, one address a line.

        With ``wait`` (seconds), who knows them already is answered when they change: an order for a mailbox that is
        new can bring its challenge mail within a second.
        """
        config, version, pages = self._pages()
        wait = header.get("wait")
        if header.get("known") == version and isinstance(wait, int | float):
            self._wait_while(config, min(wait, LONGEST_WAIT))
            config, version, pages = self._pages()
        waited = {} if wait is None else {"waited": True}
        if header.get("known") == version:
            return {"version": version, "unchanged": True, **waited}, b""
        wanted = header.get("page", 0)
        number = wanted if isinstance(wanted, int) and 0 <= wanted < len(pages) else 0
        return {"version": version, "page": number, "pages": len(pages), **waited}, pages[number]

    def _pages(self) -> tuple[Config, str, list[bytes]]:
        config, known = self._config(), self._pages_of
        if known is None or known[0] is not config:
            lines = [address.lower().encode() for address in sorted(config.managed())]
            pages: list[bytes] = []
            page: list[bytes] = []
            size = 0
            for line in lines:
                if size + len(line) + 1 > PAGE:
                    pages.append(b"\n".join(page))
                    page, size = [], 0
                page.append(line)
                size += len(line) + 1
            pages.append(b"\n".join(page))
            version = hashlib.sha256(b"\n".join(lines)).hexdigest()[:16]
            self._pages_of = known = (config, version, pages)
        return known


def _candidate(header: dict[str, object], body: bytes) -> Candidate:
    recipients = header.get("recipients")
    queue_id = header.get("queue_id")
    return Candidate(
        envelope=Envelope(
            sender=str(header.get("sender") or ""),
            recipients=tuple(map(str, recipients)) if isinstance(recipients, list) else (),
            authenticated=bool(header.get("auth")),
            queue_id=None if queue_id is None else str(queue_id),
        ),
        raw=body,
        truncated=bool(header.get("truncated")),
    )
