# SPDX-License-Identifier: GPL-3.0-or-later
"""Revoking because a person asked: what `cert revoke` wants of a running worker."""

from collections.abc import Callable
from datetime import datetime
from typing import cast

import sqlalchemy as sa

from acme_milter.acme.revocation import RevocationReason
from acme_milter.config.schema import Config
from acme_milter.store import certificates, mailboxes
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database
from acme_milter.worker.leaving import reason_of
from acme_milter.worker.withdrawing import revoke

AT_ONCE = 20
"""Addresses in one transaction: each may have certificates of years, which are taken back from several targets."""

REASONS = tuple(reason.name.lower().replace("_", "-") for reason in RevocationReason)


class RevocationCall:
    """Answers the control socket's call ``revoke``."""

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

    def answer(self, header: dict[str, object]) -> dict[str, object]:
        """``serials`` (hex) or ``addresses``, at most some thousands, and ``reason``, a word of REASONS.

        An address stands for every certificate of its present person that has not expired. A result for each
        certificate: ``asked`` or ``already-revoked``; ``expired``, ``unknown`` for what there is nothing to revoke of.
        """
        try:
            reason = reason_of(str(header.get("reason", "unspecified")))
        except KeyError:
            return {"error": "unknown reason", "text": f"the reason must be one of {', '.join(REASONS)}"}
        by_serial = bool(header.get("serials"))
        wanted = [str(one) for one in cast("list[object]", header.get("serials") or header.get("addresses") or [])]
        results: list[dict[str, object]] = []
        for start in range(0, len(wanted), AT_ONCE):
            with self._database.write() as connection:
                for one in wanted[start : start + AT_ONCE]:
                    results += self._ask(connection, one, reason, by_serial=by_serial)
        self._work_is_due()
        return {"results": results}

    def _ask(
        self, connection: sa.Connection, wanted: str, reason: RevocationReason, *, by_serial: bool
    ) -> list[dict[str, object]]:
        config, now = self._config(), self._clock()
        found = _with_serial(connection, wanted) if by_serial else _of_address(connection, wanted, now)
        if not found:
            return [{"wanted": wanted, "outcome": "unknown", "address": None, "serial": None}]
        return [
            {
                "wanted": wanted,
                "outcome": _outcome(connection, config, certificate, reason, now),
                "address": certificate.address,
                "serial": certificate.serial,
            }
            for certificate in found
        ]


def _with_serial(connection: sa.Connection, serial: str) -> list[StoredCertificate]:
    return certificates.with_serial(connection, serial.replace(":", "").lower().lstrip("0"))


def _of_address(connection: sa.Connection, address: str, now: datetime) -> list[StoredCertificate]:
    row = mailboxes.find(connection, address)
    holder = (address, address) if row is None else (row.address, row.principal)
    return certificates.valid_of(connection, *holder, now)


def _outcome(
    connection: sa.Connection, config: Config, certificate: StoredCertificate, reason: int, now: datetime
) -> str:
    if certificate.not_after <= now:
        return "expired"
    return "asked" if revoke(connection, config, certificate, reason, now, by="operator") else "already-revoked"
