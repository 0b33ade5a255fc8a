# SPDX-License-Identifier: GPL-3.0-or-later
"""The S/MIME verdict on a challenge mail: the authority's trusted certificates, and a killable child that judges."""

import json
from datetime import datetime
from pathlib import Path
from typing import Self

from acme_milter.protocol.challenge_mail import ChallengeMail
from acme_milter.protocol.faults import MailFault
from acme_milter.protocol.smime_structure import looks_signed
from acme_milter.protocol.smime_verdict import SmimeVerdict
from acme_milter.worker.child_pool import WALL_SECONDS, ChildPool, Trade, VerifierBusy, VerifierLimit
from acme_milter.worker.smime_child import ANSWER_HEADER, JOB_HEADER

MAX_TRUST_OCTETS = 256 * 1024
"""Some two hundred certificates; an authority signs with one or two."""


class SmimeVerifier:
    """Judges ChallengeMails; safe for many threads.

    Its child is started at once when it is `expected` to be needed, else by the first mail that needs it, whose time
    that takes.
    """

    def __init__(self, *, expected: bool = False, wall_seconds: float = WALL_SECONDS) -> None:
        trade = Trade("acme_milter.worker.smime_child", "S/MIME verification", _is_complete, eager=expected)
        self._pool = ChildPool(trade, 1, wall_seconds=wall_seconds)

    def verify(self, mail: ChallengeMail, *, trust: Path, now: datetime, not_before: datetime | None) -> SmimeVerdict:
        """`trust` is a file of certificates in PEM, `not_before` when the order was made.

        A mail that is not S/MIME-signed by its own words is told so without any child. Blocks for up to 5 s.
        """
        if not looks_signed(mail.headers):
            return SmimeVerdict(MailFault.SMIME_NONE, "the mail is not S/MIME-signed")
        try:
            with trust.open("rb") as file:
                trusted = file.read(MAX_TRUST_OCTETS + 1)
        except OSError as error:
            return SmimeVerdict(MailFault.SMIME_TRUST_UNREADABLE, f"smime_trust cannot be read: {error.strerror}")
        if len(trusted) > MAX_TRUST_OCTETS:
            return SmimeVerdict(MailFault.SMIME_TRUST_UNREADABLE, "smime_trust is larger than 256 kB")
        times = {"now": now.timestamp(), "not_before": None if not_before is None else not_before.timestamp()}
        about = json.dumps(times).encode("ascii")
        frame = JOB_HEADER.pack(len(about), len(trusted), len(mail.raw)) + about + trusted + mail.raw
        try:
            return _read(self._pool.ask(frame)[ANSWER_HEADER.size :])
        except VerifierLimit as limit:
            return SmimeVerdict(MailFault.SMIME_LIMIT, str(limit))
        except VerifierBusy as busy:
            return SmimeVerdict(MailFault.SMIME_BUSY, str(busy))

    def process_ids(self) -> list[int]:
        """The process ids of the children that live now."""
        return self._pool.process_ids()

    def close(self) -> None:
        """End the child. Calling it again does nothing."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_complete(answer: bytes) -> bool:
    if len(answer) < ANSWER_HEADER.size:
        return False
    (length,) = ANSWER_HEADER.unpack_from(answer)
    return len(answer) >= ANSWER_HEADER.size + int(length)


def _read(answer: bytes) -> SmimeVerdict:
    document = json.loads(answer)
    fault = document["fault"]
    return SmimeVerdict(
        None if fault is None else MailFault(fault),
        str(document["detail"]),
        str(document["signer"]),
        str(document["protection"]),
        bool(document["dated"]),
    )
