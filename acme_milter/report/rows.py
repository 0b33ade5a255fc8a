# SPDX-License-Identifier: GPL-3.0-or-later
"""Values of the store as JSON has them; times are RFC 3339 in UTC."""

from datetime import datetime

from acme_milter.enrollment.model import OPEN_STATES, State
from acme_milter.store.overview import Overview

Row = dict[str, object]


def instant(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()


def plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


def counted(number: object, one: str, several: str) -> str:
    """The number with what follows it: ``one`` where it is 1, else ``several``."""
    return f"{number} {one if number == 1 else several}"


def enrollment_row(row: Overview) -> Row:
    """One enrollment; ``seconds`` is how long it took up to its certificate; without one, up to its present state."""
    return {
        "address": row.address,
        "id": row.id,
        "authority": row.authority,
        "usage": row.usage.value,
        "state": row.state.value,
        "seconds": round(((row.issued_at or row.state_since) - row.opened_at).total_seconds(), 3),
        "serial": row.serial,
        "not_after": instant(row.not_after),
        "challenge_queue_id": row.challenge_queue_id,
        "reply_queue_id": row.reply_queue_id,
        "error": row.last_error,
        "next_attempt_at": instant(row.next_attempt_at),
        "remark": remark_of(row),
    }


def remark_of(row: Overview) -> str:
    """What is in an enrollment's way, and what becomes of it; empty when nothing is."""
    again = row.next_attempt_at
    if row.last_error is None:
        return f"may begin from {again:%Y-%m-%d %H:%M:%S} UTC on" if row.state is State.PLANNED and again else ""
    if row.state in OPEN_STATES and again is not None:
        return f"{row.last_error}; next attempt at {again:%Y-%m-%d %H:%M:%S} UTC"
    return f"{row.last_error}; will be ordered again" if row.successor_id else row.last_error
