# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that puts one certificate into one entry, or takes it out: `python -m acme_milter.delivery.ldap_writer`.

libldap may wait for ever (`ldap_connection`), and certificates of others are parsed here: this process can be killed.
The request on standard input is one JSON object with the fields of `Writing`; the answer on standard output is
`{"done": "…"}` or `{"fault": "…", "permanent": true}`.
"""

import base64
import dataclasses
import json
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from acme_milter.delivery.ldap_values import Change, change_for, is_stale
from acme_milter.ldap_connection import LIBRARY_IS_MISSING, Login, connected, left, server_words, trouble_of
from acme_milter.quoting import quoted

_SHADOW = "userSMIMECertificate"
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing(Login):
    """One certificate's way into its entry, or with ``take_out`` out of it. ``certificate`` is DER in base64;
    ``filter`` holds {address}, {local} and {domain}, and ``mailbox`` what stands for them; ``now`` is in ISO 8601.
    """

    base: str
    filter: str
    mailbox: Mapping[str, str]
    attribute: str
    certificate: str
    take_out: bool = False
    keep: int
    clear_stale: bool
    now: str


class WritingFault(Exception):
    """The entry did not take it; the text says why and what to do, and holds no secret."""

    safe_text = True

    def __init__(self, text: str, *, permanent: bool) -> None:
        super().__init__(text)
        self.permanent = permanent


@dataclass(frozen=True, slots=True)
class _Entry:
    dn: str
    attributes: Mapping[str, Sequence[bytes]]

    def values_of(self, name: str) -> dict[str, list[bytes]]:
        """The values of an attribute under each description that the server uses for it, with ;binary or without."""
        bare = _bare(name)
        return {said: list(values) for said, values in self.attributes.items() if _bare(said) == bare}


def write(asked: Writing) -> str:
    """Bring the entry to what it should hold, and say what that was. Raises WritingFault."""
    try:
        import ldap
    except ModuleNotFoundError:
        raise WritingFault(LIBRARY_IS_MISSING, permanent=True) from None
    deadline = time.monotonic() + asked.timeout
    try:
        with connected(asked, deadline) as connection:
            for _ in range(_ATTEMPTS):
                entry = _find(asked, connection, deadline)
                if entry is None:
                    return f"{_no_entry(asked)}: it is not there any more"
                try:
                    return (_take_out if asked.take_out else _bring_to)(asked, entry, connection, deadline)
                except (ldap.TYPE_OR_VALUE_EXISTS, ldap.NO_SUCH_ATTRIBUTE):
                    continue  # somebody else has changed it since we looked
            what = f"{_where(asked)} what fits {quoted(filter_for(asked))} keeps changing under us"
            raise WritingFault(what, permanent=False)
    except ldap.LDAPError as error:
        raise _explained(asked, error) from None
    except OSError as error:
        what = f"{asked.uri}: cannot be reached ({error.strerror or error})"
        raise WritingFault(what, permanent=False) from None


def _find(asked: Writing, connection: Any, deadline: float) -> _Entry | None:
    """The one entry that the filter means; None where there is none, and nothing is to be put there."""
    entries = _search(asked, connection, deadline)
    if not entries and asked.take_out:
        return None
    if not entries:
        what = f"{_no_entry(asked)}, or this login may not see it; put it there, or correct filter"
        # Whoever has just joined may get an entry a little later than a certificate, without anybody's doing.
        raise WritingFault(what, permanent=False)
    if len(entries) > 1:
        names = " and ".join(quoted(entry.dn) for entry in entries)
        what = f"more than one entry fits {quoted(filter_for(asked))}: {names}; correct filter, or one of them"
        raise WritingFault(f"{_where(asked)} {what}", permanent=True)
    return entries[0]


def _where(asked: Writing) -> str:
    return f"{asked.uri}: below {quoted(asked.base)}"


def _no_entry(asked: Writing) -> str:
    return f"{_where(asked)} no entry fits {quoted(filter_for(asked))}"


def _search(asked: Writing, connection: Any, deadline: float) -> list[_Entry]:
    """What fits the filter: all of it, or two of them."""
    import ldap

    seconds = left(deadline)
    wanted = [_bare(asked.attribute), _SHADOW]
    message = connection.search_ext(
        asked.base, ldap.SCOPE_SUBTREE, filter_for(asked), wanted, timeout=max(1, int(seconds)), sizelimit=2
    )
    entries: list[_Entry] = []
    try:
        while True:
            kind, found, _, _ = connection.result3(message, all=0, timeout=left(deadline))
            # Of other kinds are references to other directories, which are not followed.
            if kind == ldap.RES_SEARCH_ENTRY:
                entries += [_Entry(dn, attributes) for dn, attributes in found]
            elif kind == ldap.RES_SEARCH_RESULT:
                break
    except ldap.SIZELIMIT_EXCEEDED:
        if len(entries) < 2:  # the directory's own limit, and so low that it says nothing
            raise
    return entries


def filter_for(asked: Writing) -> str:
    """The filter with the mailbox in it, its characters escaped where they mean something in a filter (RFC 4515 §3)."""
    from ldap.filter import escape_filter_chars

    # In one pass: a local part may hold braces itself.
    return re.sub(r"\{(\w+)\}", lambda found: escape_filter_chars(asked.mailbox[found[1]]), asked.filter)


def _bring_to(asked: Writing, entry: _Entry, connection: Any, deadline: float) -> str:
    """One modify request, which is all or nothing (RFC 4511 §4.6), or none when the entry is as it should be."""
    ours = base64.b64decode(asked.certificate)
    present = [value for values in entry.values_of(asked.attribute).values() for value in values]
    change = change_for(ours, present, asked.keep, datetime.fromisoformat(asked.now))
    stale = _stale_in(entry, ours) if asked.clear_stale else []
    modifications = _modifications(asked, entry, change, ours, stale)
    if modifications:
        message = connection.modify_ext(entry.dn, modifications)
        connection.result3(message, all=1, timeout=left(deadline))
    return _outcome(asked, entry, change, cleared=bool(stale))


def _take_out(asked: Writing, entry: _Entry, connection: Any, deadline: float) -> str:
    """One modify request too. Where userSMIMECertificate is about this certificate, it goes as well: Outlook would go
    on encrypting to it.
    """
    import ldap

    ours = base64.b64decode(asked.certificate)
    stale = set(_stale_in(entry, ours))
    shadow = sorted(entry.values_of(_SHADOW).keys() - stale) if asked.clear_stale else []
    there = [name for name, values in entry.values_of(asked.attribute).items() if ours in values]
    modifications: list[tuple[int, str, list[bytes] | None]] = [(ldap.MOD_DELETE, name, [ours]) for name in there]
    modifications += [(ldap.MOD_DELETE, name, None) for name in shadow]
    if modifications:
        message = connection.modify_ext(entry.dn, modifications)
        connection.result3(message, all=1, timeout=left(deadline))
    said = f"{asked.attribute} of {quoted(entry.dn)} at {asked.uri}"
    cleared = f"; {_SHADOW} about it cleared" if shadow else ""
    return f"{'taken out of' if there else 'not any more in'} {said}{cleared}"


def _stale_in(entry: _Entry, ours: bytes) -> list[str]:
    """The descriptions under which an older userSMIMECertificate is there."""
    found = entry.values_of(_SHADOW)
    return [name for name, values in found.items() if any(is_stale(ours, value) for value in values)]


def _modifications(
    asked: Writing, entry: _Entry, change: Change, ours: bytes, stale: Sequence[str]
) -> list[tuple[int, str, list[bytes] | None]]:
    """Single values, not the whole attribute: what somebody else adds in this moment is to stay."""
    import ldap

    found: list[tuple[int, str, list[bytes] | None]] = []
    for name, values in entry.values_of(asked.attribute).items():
        leaving = [value for value in values if value in change.delete]
        if leaving:
            found.append((ldap.MOD_DELETE, name, leaving))
    if change.add:
        found.append((ldap.MOD_ADD, asked.attribute, [ours]))
    # Its syntax has no equality (RFC 2798 §2.8), so that no single value of it can be deleted.
    found += [(ldap.MOD_DELETE, name, None) for name in stale]
    return found


def _outcome(asked: Writing, entry: _Entry, change: Change, *, cleared: bool) -> str:
    said = f"{asked.attribute} of {quoted(entry.dn)} at {asked.uri}"
    parts = [f"not in {said}: {asked.keep} newer there already (keep: {asked.keep})" if change.outranked else said]
    if change.kept and not change.outranked:
        parts.append(f"{change.kept} other there too")
    if change.delete:
        parts.append(f"{len(change.delete)} old taken out")
    if change.unread:
        parts.append(f"{change.unread} that is no certificate left alone")
    if cleared:
        parts.append(f"an older {_SHADOW} cleared")
    return "; ".join(parts)


def _explained(asked: Writing, error: Exception) -> WritingFault:
    """What to say of an ldap.LDAPError: what happened, in the server's words where it has some, and what to do."""
    import ldap

    trouble = trouble_of(asked, error)
    if trouble is not None:
        return WritingFault(f"{asked.uri}: {trouble.text}", permanent=trouble.lasting)
    words = server_words(error)
    attribute = asked.attribute
    forms = "userCertificate;binary (to: ldap), in Active Directory userCertificate (to: ad)"
    lasting: Mapping[type[Exception], str] = {
        ldap.INVALID_DN_SYNTAX: f"base or bind.dn is no distinguished name{words}",
        ldap.NO_SUCH_OBJECT: f"base {quoted(asked.base)} is not there, or may not be seen by this login",
        ldap.FILTER_ERROR: f"filter {quoted(asked.filter)} is no LDAP filter",
        ldap.INSUFFICIENT_ACCESS: f"this login may not write {attribute} and {_SHADOW}{words}; give it that right",
        ldap.OBJECT_CLASS_VIOLATION: f"the entry may not have {attribute}{words}; give it the class inetOrgPerson",
        ldap.UNDEFINED_TYPE: f"the directory does not know {attribute} in this form{words}; it is {forms}",
        ldap.INVALID_SYNTAX: f"the directory does not take {attribute} in this form{words}; it is {forms}",
        ldap.CONSTRAINT_VIOLATION: f"the directory does not take it{words}; see what constrains {attribute}",
        ldap.REFERRAL: f"it does not take changes itself{words}; name the server that does in uri",
    }
    for kind, text in lasting.items():
        if isinstance(error, kind):
            return WritingFault(f"{asked.uri}: {text}", permanent=True)
    return WritingFault(f"{asked.uri}: it did not take it: {type(error).__name__}{words}", permanent=False)


def _bare(description: str) -> str:
    return description.partition(";")[0].lower()


def main() -> None:
    """Do what standard input asks for."""
    asked = Writing(**json.load(sys.stdin))
    signal.alarm(int(asked.timeout) + 10)  # should our parent be gone and libldap never come back
    try:
        answer: Mapping[str, object] = {"done": write(asked)}
    except WritingFault as fault:
        answer = {"fault": str(fault), "permanent": fault.permanent}
    print(json.dumps(answer), flush=True)


def request(asked: Writing) -> bytes:
    """What this process reads; it holds the password."""
    return json.dumps(dataclasses.asdict(asked)).encode()


def time_text(moment: datetime) -> str:
    """As `Writing.now` is written."""
    return moment.astimezone(UTC).isoformat()


if __name__ == "__main__":
    main()
