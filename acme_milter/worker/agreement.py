# SPDX-License-Identifier: GPL-3.0-or-later
"""When an authority has new terms (RFC 8555 §7.3.3): it rests until a person has read them and agreed."""

import logging
from datetime import datetime

from acme_milter.acme.problem import AcmeError, ErrorType
from acme_milter.eventlog import Event, log_event
from acme_milter.store import pauses
from acme_milter.store.database import Database


def wants_agreement(error: AcmeError) -> bool:
    """Whether the authority will not go on before somebody has agreed to its terms."""
    return error.kind is ErrorType.USER_ACTION_REQUIRED


def what_to_read(authority: str, error: AcmeError) -> str:
    """The terms, where to learn how they are agreed to, and the commands to run then."""
    terms = error.link("terms-of-service")
    instance = error.problem.instance if error.problem is not None else ""
    steps = [f"read {terms}"] if terms else []
    if instance and instance != terms:
        steps.append(f"follow {instance}")
    steps.append(f"then run: acme-milter authority register {authority} --agree")
    steps.append(f"and: acme-milter authority resume {authority}")
    return f"its terms must be agreed to ({error}): {', '.join(steps)}"


def pause_until_agreed(database: Database, authority: str, error: AcmeError, now: datetime) -> None:
    """Begin nothing new with the authority until a person resumes it; said once, however many orders meet it."""
    with database.write() as connection:
        known = pauses.get(connection, authority)
        if known is not None and known.by_person:
            return
        reason = what_to_read(authority, error)
        pauses.pause(connection, authority, reason, now, None)
    log_event(Event.AUTHORITY_PAUSED, level=logging.ERROR, authority=authority, reason=reason)
