# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that searches one directory and ends: `python -m acme_milter.mailboxes.ldap_search`.

libldap may wait for ever (`ldap_connection`); this process can be killed. The search is paged (RFC 2696), and what
keeps the last page from arriving is a fault.

The request on standard input is one JSON object with the fields of `Search`. Each line on standard output is a JSON
list of an entry's name and its attributes, values in base64; the last line is `{"end": true}` or `{"fault": "…"}`.
"""

import base64
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from acme_milter.ldap_connection import LIBRARY_IS_MISSING, Login, connected, left, server_words, trouble_of
from acme_milter.quoting import quoted

Emit = Callable[[str | None, Mapping[str, Sequence[bytes]]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search(Login):
    """One search. ``timeout`` in seconds is for all of it."""

    base: str
    scope: str
    filter: str
    attributes: Sequence[str]
    page_size: int


class SearchFault(Exception):
    """The directory could not be searched to the end; the text says why and what to do, and holds no secret."""

    safe_text = True


def search(asked: Search, emit: Emit) -> None:
    """Give every entry to ``emit``, references to other directories with the name None. Raises SearchFault."""
    try:
        import ldap
    except ModuleNotFoundError:
        raise SearchFault(LIBRARY_IS_MISSING) from None
    deadline = time.monotonic() + asked.timeout
    try:
        with connected(asked, deadline) as connection:
            for page in _pages(asked, connection, deadline):
                for dn, attributes in page:
                    emit(dn, attributes if dn is not None else {})
    except ldap.LDAPError as error:
        raise SearchFault(f"{asked.uri}: {_explained(asked, error)}") from None
    except OSError as error:
        raise SearchFault(f"{asked.uri}: cannot be reached ({error.strerror or error})") from None


def _pages(asked: Search, connection: Any, deadline: float) -> Iterator[Sequence[Any]]:
    import ldap
    from ldap.controls import SimplePagedResultsControl

    scope = ldap.SCOPE_SUBTREE if asked.scope == "sub" else ldap.SCOPE_ONELEVEL
    control = SimplePagedResultsControl(criticality=True, size=asked.page_size, cookie=b"")
    while True:
        seconds = left(deadline)
        message = connection.search_ext(
            asked.base, scope, asked.filter, list(asked.attributes),
            serverctrls=[control], timeout=max(1, int(seconds)),
        )  # fmt: skip
        _, page, _, controls = connection.result3(message, all=1, timeout=seconds)
        yield page
        answer = next((one for one in controls if one.controlType == control.controlType), None)
        # RFC 2696 §3: an empty cookie is the end of the result set.
        if answer is None or not answer.cookie:
            return
        control.cookie = answer.cookie


def _explained(asked: Search, error: Exception) -> str:
    """What to say of an ldap.LDAPError: what happened, in the server's words where it has some, and what to do."""
    import ldap

    words = server_words(error)
    texts: Mapping[type[Exception], str] = {
        ldap.INVALID_DN_SYNTAX: f"base or bind.dn is no distinguished name{words}",
        ldap.NO_SUCH_OBJECT: f"base {quoted(asked.base)} is not there, or may not be seen by this login",
        ldap.FILTER_ERROR: f"filter {quoted(asked.filter)} is no LDAP filter",
        ldap.INSUFFICIENT_ACCESS: f"this login may not search below {quoted(asked.base)}{words}",
        ldap.UNAVAILABLE_CRITICAL_EXTENSION: f"the directory cannot give its answer in pages{words}",
        ldap.TIMELIMIT_EXCEEDED: f"no complete answer in time{words}; raise timeout, or the directory's time limit",
        ldap.SIZELIMIT_EXCEEDED: f"the directory cuts its answer off{words}; give this login a higher size limit",
        ldap.ADMINLIMIT_EXCEEDED: f"the directory cuts its answer off{words}; give this login higher limits",
    }
    said = next((text for kind, text in texts.items() if isinstance(error, kind)), None)
    if said is None and (trouble := trouble_of(asked, error)) is not None:
        said = trouble.text
    return said or f"the search failed: {type(error).__name__}{words}"


def _print_entry(dn: str | None, attributes: Mapping[str, Sequence[bytes]]) -> None:
    values = {name: [base64.b64encode(value).decode() for value in found] for name, found in attributes.items()}
    print(json.dumps([dn, values]))


def main() -> None:
    """Do what standard input asks for."""
    asked = Search(**json.load(sys.stdin))
    signal.alarm(int(asked.timeout) + 10)  # should our parent be gone and libldap never come back
    ending: Mapping[str, object] = {"end": True}
    try:
        search(asked, _print_entry)
    except SearchFault as fault:
        ending = {"fault": str(fault)}
    print(json.dumps(ending), flush=True)


if __name__ == "__main__":
    main()
