# SPDX-License-Identifier: GPL-3.0-or-later
"""The view of authorities: account, budgets used and left, pauses, and the renewals to come."""

from datetime import datetime

import sqlalchemy as sa

from acme_milter.config.schema import Authority, Config
from acme_milter.enrollment.model import BACKGROUND_CAUSES
from acme_milter.enrollment.renewal import begin_of, day_of
from acme_milter.enrollment.staging import is_staging
from acme_milter.report.authority_health import health_row
from acme_milter.report.forecast import Forecast
from acme_milter.report.rows import Row, instant
from acme_milter.store import accounts, authority_health, budgets, holds, pauses, renewals
from acme_milter.store.pauses import Pause

DAYS = 30
"""How far the forecast is shown."""


def authorities(connection: sa.Connection, config: Config, now: datetime) -> dict[str, object]:
    """Every configured authority, in the order of the configuration, staging services last."""
    paused = pauses.in_force(connection, now)
    health = authority_health.of_all(connection)
    forecast = Forecast(lambda: config)
    return {
        "schema": "acme-milter/authority-list/1",
        "authorities": [
            {
                "authority": name,
                "staging": is_staging(name),
                "directory": settings.directory,
                "account": _account(connection, name, settings),
                "accounts": accounts.number_in_use(connection, name, settings.directory),
                "keys_to_exchange": accounts.number_changing(connection, name),
                "paused": _pause(paused.get(name)),
                "health": health_row(health.get(name)),
                "held": _held(connection, name),
                "budgets": _budgets(connection, name, settings, forecast, now),
                "renewals": _renewals(connection, name, forecast, now),
            }
            for name, settings in config.authorities.items()
        ],
    }


def _account(connection: sa.Connection, name: str, settings: Authority) -> str | None:
    """The URL of the one that everybody shares."""
    known = accounts.find(connection, name, settings.directory)
    return None if known is None else known.url


def _pause(pause: Pause | None) -> Row | None:
    if pause is None:
        return None
    return {"reason": pause.reason, "since": instant(pause.since), "until": instant(pause.until)}


def _held(connection: sa.Connection, name: str) -> str | None:
    hold = holds.get(connection, f"renewals:{name}")
    return None if hold is None or hold.released_at is not None else hold.reason


def _budgets(
    connection: sa.Connection, name: str, settings: Authority, forecast: Forecast, now: datetime
) -> dict[str, Row]:
    """Each with what is used of it now, or was in the last sixty minutes; limit None is none."""
    limits, begun = settings.limits, sum(budgets.begun(connection, name, now).values())
    return {
        "in_flight": {"used": budgets.moving(connection, name), "limit": limits.in_flight},
        "orders_per_hour": {"used": begun, "limit": limits.orders_per_hour},
        "mails_per_hour": {"used": budgets.replies(connection, name, now), "limit": limits.mails_per_hour},
        "failed_per_hour": {
            "used": budgets.failed(connection, name, now - budgets.WINDOW),
            "limit": limits.failed_per_hour,
        },
        "background_per_hour": {
            "used": budgets.opened(connection, name, BACKGROUND_CAUSES, now),
            "limit": forecast.pace(connection, name, now),
        },
    }


def _renewals(connection: sa.Connection, name: str, forecast: Forecast, now: datetime) -> Row:
    first = day_of(now)
    planned = renewals.by_day(connection, name, first, first + DAYS - 1)
    return {
        "certificates": renewals.number_active(connection, name),
        "mean_per_day": round(24 * forecast.mean(connection, name, now), 2),
        "by_day": {f"{begin_of(day):%Y-%m-%d}": planned.get(day, 0) for day in range(first, first + DAYS)},
    }
