# SPDX-License-Identifier: GPL-3.0-or-later
"""The killable children for DKIM arithmetic."""

from acme_milter.worker.child_pool import WALL_SECONDS, ChildPool, Trade, VerifierBusy, VerifierLimit
from acme_milter.worker.dkim_child import JOB_HEADER, VALID

__all__ = ["ArithmeticPool", "VerifierBusy", "VerifierLimit"]

_DKIM = Trade("acme_milter.worker.dkim_child", "DKIM arithmetic", lambda answer: len(answer) >= 1, eager=True)


class ArithmeticPool(ChildPool):
    """`size` children that verify DKIM signatures; safe to call from any number of threads."""

    def __init__(self, size: int, *, wall_seconds: float = WALL_SECONDS) -> None:
        super().__init__(_DKIM, size, wall_seconds=wall_seconds)

    def verify(self, raw: bytes, index: int, key_record: bytes) -> bool:
        """Whether DKIM-Signature number `index` (top = 0) of `raw` verifies with the key record given.

        Raises as ChildPool.ask does.
        """
        return self.ask(JOB_HEADER.pack(index, len(key_record), len(raw)) + key_record + raw) == VALID
