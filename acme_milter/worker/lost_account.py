# SPDX-License-Identifier: GPL-3.0-or-later
"""When an authority has lost our account: nothing can be ordered there until a person has registered another one."""

from datetime import datetime

import sqlalchemy as sa

from acme_milter.acme.problem import AcmeError, ErrorType, ServerRefused
from acme_milter.enrollment import lost_account
from acme_milter.enrollment.model import Enrollment
from acme_milter.enrollment.state_machine import Deferred, Moved, advance
from acme_milter.store import accounts, enrollments
from acme_milter.store.authority_health import Health
from acme_milter.store.database import Database
from acme_milter.worker.choice import is_movable
from acme_milter.worker.custody import brought_key


class AccountLost(ServerRefused):
    """The authority does not know the account; the text has the commands that make another one."""


def is_lost(error: AcmeError) -> bool:
    """RFC 8555 §6.7: a request named an account that does not exist."""
    return error.kind is ErrorType.ACCOUNT_DOES_NOT_EXIST


def told_of(database: Database, enrollment: Enrollment, refused: ServerRefused) -> AccountLost:
    """The refusal with what a person is to do."""
    with database.read() as connection:
        account = accounts.ordered_with(connection, enrollment)
    scope = "" if account is None else account.scope
    return AccountLost(lost_account.in_words(enrollment.authority, scope, str(refused)), problem=refused.problem)


def healed(health: Health) -> Health:
    """Where all that was wrong was the account, a new one mends it."""
    return Health(authority=health.authority) if lost_account.remedy_in(health.last_error) else health


def order_anew(connection: sa.Connection, enrollment: Enrollment, now: datetime) -> None:
    """For one whose lost account was closed. Without an order it is planned again; else its next step finds out that
    nobody can see the order any more, and opens the next one. Raises StaleVersion.
    """
    event: Moved | Deferred = Deferred(next_attempt_at=now)
    if is_movable(enrollment):
        event = Moved(authority=enrollment.authority, key_id=brought_key(connection, enrollment), next_attempt_at=now)
    enrollments.save(connection, advance(enrollment, event, now))
