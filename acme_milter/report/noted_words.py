# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines of the audit trail in words for people, where nothing else tells of what they note."""

from collections.abc import Callable, Mapping
from datetime import datetime

from acme_milter.eventlog import Event
from acme_milter.store.mailboxes import StoredMailbox
from acme_milter.store.timeline import Noted

Details = Mapping[str, object]

MISSING, RETURNED, REJOINED = "mailbox-missing", "mailbox-returned", "mailbox-rejoined"


def words_of(noted: Noted) -> str:
    """A line for people; of a word that an older or newer version noted, the word and its details."""
    make = NOTED.get(noted.event)
    if make is not None:
        return make(noted.details)
    told = (f"{key}={value}" for key, value in noted.details.items() if key not in _NOT_FOR_A_LINE)
    return " ".join([noted.event, *told])


def is_told_by(row: StoredMailbox | None, noted: Noted) -> bool:
    """Whether the line notes how the mailbox stands now, which the source's row tells."""
    if row is None:
        return False
    since: Mapping[str, datetime | None] = {MISSING: row.missing_since, Event.MAILBOX_LEFT: row.left_at}
    moment = since.get(noted.event)
    return moment is not None and noted.at >= moment


def tells_first(row: StoredMailbox, noted: Noted) -> bool:
    """Whether the line notes how the mailbox came to be whose it is: then it was not seen for the first time."""
    return noted.event in {REJOINED, Event.MAILBOX_REASSIGNED} and noted.at >= row.first_seen_at


def _moved(details: Details) -> str:
    return f"order moved from {details.get('from')} to {details.get('to')}: {details.get('why')}"


def _imported(details: Details) -> str:
    use = "in use from now on" if details.get("in_use") else "not in use"
    return f"certificate {details.get('serial')} imported, {use}"


def _brought(details: Details) -> str:
    use = {"sign": ", to sign", "encrypt": ", to encrypt"}.get(str(details.get("usage")), "")
    return f"certificate request brought (key {details.get('algorithm')}{use})"


def _shown(details: Details) -> str:
    return f"passphrase of {details.get('serial')} at {details.get('target')} shown to {_person(details)}"


def _exported(details: Details) -> str:
    return f"{details.get('serial')} exported as {details.get('format')} by {_person(details)}"


def _person(details: Details) -> str:
    uid = details.get("uid")
    return "an unknown user" if uid is None else f"the user with uid {uid}"


def _of_source(words: str) -> Callable[[Details], str]:
    return lambda details: words.format(source=details.get("source"))


NOTED: Mapping[str, Callable[[Details], str]] = {
    Event.CERTIFICATE_EXPIRED: lambda _: "certificate expired",
    Event.CERTIFICATE_EXPORTED: _exported,
    Event.CERTIFICATE_IMPORTED: _imported,
    Event.CERTIFICATE_REFUSED: lambda details: f"certificate not taken from the authority: {details.get('reason')}",
    Event.ENROLLMENT_MOVED: _moved,
    Event.KEY_BROUGHT: _brought,
    Event.KEY_DESTROYED: lambda details: f"key of {details.get('serial')} destroyed here: {details.get('why')}",
    Event.MAILBOX_LEFT: lambda _: "counted as gone",
    Event.MAILBOX_REASSIGNED: _of_source("another person's from now on, says the source {source}"),
    Event.PASSPHRASE_SHOWN: _shown,
    MISSING: _of_source("not in the source {source} any more"),
    REJOINED: _of_source("in the source {source} again, after it had counted as gone"),
    RETURNED: _of_source("in the source {source} again"),
}
_NOT_FOR_A_LINE = frozenset({"chain"})
