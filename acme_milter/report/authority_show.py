# SPDX-License-Identifier: GPL-3.0-or-later
"""The view of one authority: where it is, and every account with its terms and its key, closed ones included."""

from datetime import datetime

import sqlalchemy as sa

from acme_milter.config.schema import Config
from acme_milter.enrollment.staging import is_staging
from acme_milter.report.authority_health import health_row
from acme_milter.report.rows import Row, instant
from acme_milter.report.unanswerable import Unanswerable
from acme_milter.store import accounts, authority_health, pauses
from acme_milter.store.accounts import StoredAccount

SCHEMA = "acme-milter/authority-show/1"


def authority_show(connection: sa.Connection, config: Config, now: datetime, authority: str) -> dict[str, object]:
    """Raises Unanswerable for an authority that is not configured."""
    settings = config.authorities.get(authority)
    if settings is None:
        known = ", ".join(config.authorities) or "none"
        raise Unanswerable(f"no authority {authority} is configured; there is {known}")
    pause = pauses.in_force(connection, now).get(authority)
    return {
        "schema": SCHEMA,
        "authority": authority,
        "staging": is_staging(authority),
        "directory": settings.directory,
        "preset": settings.preset,
        "account": settings.account,
        "paused": None if pause is None else {"reason": pause.reason, "until": instant(pause.until)},
        "health": health_row(authority_health.get(connection, authority)),
        "accounts": [
            _account(connection, account, settings.directory, now) for account in accounts.every(connection, authority)
        ],
    }


def _account(connection: sa.Connection, account: StoredAccount, directory: str, now: datetime) -> Row:
    waits_for = accounts.open_challenges(connection, account, now) if account.is_changing else 0
    exchange = {"waits_for": waits_for, "next_attempt_at": instant(account.next_attempt_at)}
    return {
        "account": account.scope or None,
        "url": account.url,
        "in_use": account.deactivated_at is None and account.directory_url == directory,
        "terms": account.terms_url,
        "terms_agreed_at": instant(account.terms_agreed_at),
        "created_at": instant(account.created_at),
        "key_since": instant(account.key_since or account.created_at),
        "deactivated_at": instant(account.deactivated_at),
        "key_exchange": exchange if account.is_changing else None,
        "last_error": account.last_error,
    }
