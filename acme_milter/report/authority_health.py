# SPDX-License-Identifier: GPL-3.0-or-later
"""How an authority is, by its breaker: for the views, and in words."""

from acme_milter.report.rows import Row, instant
from acme_milter.store.authority_health import Health


def health_row(health: Health | None) -> Row:
    """``state``: ok; failing (``failures`` in a row, still used); broken (``since`` then, asked again at ``probe_at``);
    answering (the next order is a trial); on-trial (one order shows whether it has healed).
    """
    if health is None:
        return {"state": "ok", "failures": 0, "since": None, "last_error": None, "failed_at": None, "probe_at": None}
    return {
        "state": _state(health),
        "failures": health.failures,
        "since": instant(health.open_since),
        "last_error": health.last_error,
        "failed_at": instant(health.failed_at),
        "probe_at": instant(health.probe_at),
    }


def _state(health: Health) -> str:
    if not health.is_open:
        return "failing" if health.failures else "ok"
    if health.wants_trial:
        return "answering"
    return "broken" if health.trial_id is None else "on-trial"
