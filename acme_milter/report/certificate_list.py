# SPDX-License-Identifier: GPL-3.0-or-later
"""The views `certificate-list` and `certificate`: certificates by condition, and one of them whole."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.config.schema import Config
from acme_milter.enrollment.model import State
from acme_milter.enrollment.staging import is_staging
from acme_milter.report.member import look_up
from acme_milter.report.rows import Row, instant
from acme_milter.report.unanswerable import Unanswerable
from acme_milter.store import certificates, mailbox_keys, timeline
from acme_milter.store.timeline import CertificateLine, Condition

LIST_SCHEMA = "acme-milter/cert-list/1"
SCHEMA = "acme-milter/cert/1"

STATES = ("active", "superseded", "revoked", "expired", "rehearsed", "revocation-failed", "all")


def certificate_list(
    connection: sa.Connection,
    config: Config,
    now: datetime,
    *,
    authority: str | None = None,
    domain: str | None = None,
    expiring_seconds: float | None = None,
    issued_before: str | None = None,
    state: str = "active",
) -> Row:
    """Those that meet every condition given, the soonest end first. ``issued_before`` is an instant, ``state`` one of
    STATES; at a staging service nothing is active, and what was rehearsed is meant.
    """
    if authority is not None and authority not in config.authorities:
        known = ", ".join([*config.authorities, timeline.IMPORTED])
        if authority != timeline.IMPORTED:
            raise Unanswerable(f"no authority {authority} is configured; there are: {known}")
    if domain is not None and domain not in config.domains:
        raise Unanswerable(f"no domain {domain} is configured; there are: {', '.join(config.domains)}")
    condition = Condition(
        authority=authority,
        domain=domain,
        ends_after=None if expiring_seconds is None else now,
        ends_until=None if expiring_seconds is None else now + timedelta(seconds=expiring_seconds),
        issued_before=None if issued_before is None else datetime.fromisoformat(issued_before),
        state=State.REHEARSED.value if authority and is_staging(authority) and state == "active" else state,
    )
    rows = [certificate_row(line) for line in timeline.certificates_where(connection, condition)]
    return {"schema": LIST_SCHEMA, "at": now.isoformat(), "certificates": rows}


def certificate_show(connection: sa.Connection, config: Config, now: datetime, *, wanted: str) -> Row:
    """The certificate with the serial (hex, colons allowed) or of the mailbox ``wanted``, with its chain as PEM.
    ``key_not_here``: why there is no private key to it, for people, if there is none.
    """
    line = _with_serial(connection, wanted) if "@" not in wanted else _of_mailbox(connection, config, now, wanted)
    renewal = timeline.renewal_of(connection, line.id)
    wish = timeline.revocations_of(connection, [line.id]).get(line.id)
    key = mailbox_keys.get(connection, line.key_id)
    return {
        "schema": SCHEMA,
        "at": now.isoformat(),
        **certificate_row(line),
        "key_not_here": key.why_not_here,
        "key_destroyed_at": instant(key.destroyed_at),
        "renewal_due_at": None if renewal is None else instant(renewal.due_at),
        "revocation_asked_at": None if wish is None else instant(wish.asked_at),
        "revoked_at": None if wish is None else instant(wish.done_at),
        "revocation_error": None if wish is None else wish.last_error,
        "chain_pem": certificates.get(connection, line.id).chain_pem.decode("ascii"),
    }


def certificate_row(line: CertificateLine) -> Row:
    """A certificate for --json; ``state`` is how it is used, whatever its dates."""
    return {
        "address": line.address,
        "principal": line.principal,
        "authority": line.authority,
        "usage": line.usage,
        "state": line.state,
        "serial": line.serial,
        "issuer": line.issuer,
        "not_before": instant(line.not_before),
        "not_after": instant(line.not_after),
        "key": line.key_algorithm,
        "key_created_at": instant(line.key_created_at),
    }


def _with_serial(connection: sa.Connection, wanted: str) -> CertificateLine:
    serial = wanted.replace(":", "").lower().lstrip("0")
    found = timeline.with_serial(connection, serial)
    if not found:
        raise Unanswerable(f"no certificate has the serial {wanted}; list them with: acme-milter cert list")
    return _newest_in_use(found)


def _of_mailbox(connection: sa.Connection, config: Config, now: datetime, wanted: str) -> CertificateLine:
    known = look_up(connection, config, wanted)
    mine = [line for line in timeline.certificates_of(connection, known.address) if known.is_theirs(line.principal)]
    if not mine:
        raise Unanswerable(f"{known.address} has no certificate; see why with: acme-milter mailbox why {known.address}")
    return _newest_in_use([line for line in mine if line.not_after > now] or mine)


def _newest_in_use(lines: Sequence[CertificateLine]) -> CertificateLine:
    return next((line for line in lines if line.state == State.ACTIVE), lines[0])
