# SPDX-License-Identifier: GPL-3.0-or-later
"""Values of the store as JSON has them; times are RFC 3339 in UTC."""

from datetime import datetime

from acme_milter.store.overview import Overview

Row = dict[str, object]


def instant(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()


def plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


def enrollment_row(row: Overview) -> Row:
    """One enrollment; ``seconds`` is how long it has taken, up to its present state."""
    return {
        "address": row.address,
        "id": row.id,
        "authority": row.authority,
        "state": row.state.value,
        "seconds": round((row.state_since - row.opened_at).total_seconds(), 3),
        "serial": row.serial,
        "not_after": instant(row.not_after),
        "challenge_queue_id": row.challenge_queue_id,
        "reply_queue_id": row.reply_queue_id,
        "error": row.last_error,
        "next_attempt_at": instant(row.next_attempt_at),
        "successor_id": row.successor_id,
    }
