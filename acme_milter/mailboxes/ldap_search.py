# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that searches one directory and ends: `python -m acme_milter.mailboxes.ldap_search`.

libldap's TLS handshake with a server that has stopped answering lasts for ever, and no option bounds it. So it happens
here, where the kernel ends it. The search is paged (RFC 2696), and what keeps the last page from arriving is a fault.

The request on standard input is one JSON object with the fields of `Search`. Each line on standard output is a JSON
list of an entry's name and its attributes, values in base64; the last line is `{"end": true}` or `{"fault": "…"}`.
"""

import base64
import json
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from acme_milter.quoting import quoted

_CONNECT_SECONDS = 10.0
_PORTS = {"ldap": 389, "ldaps": 636}

Emit = Callable[[str | None, Mapping[str, Sequence[bytes]]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """One search. ``timeout`` in seconds is for all of it; ``bind_dn`` None asks without a login."""

    uri: str
    base: str
    scope: str
    filter: str
    attributes: Sequence[str]
    page_size: int
    timeout: float
    bind_dn: str | None = None
    password: str = field(default="", repr=False)
    starttls: bool = False
    ca_bundle: str | None = None


class SearchFault(Exception):
    """The directory could not be searched to the end; the text says why and what to do, and holds no secret."""

    safe_text = True


def search(asked: Search, emit: Emit) -> None:
    """Give every entry to ``emit``, references to other directories with the name None. Raises SearchFault."""
    try:
        import ldap
    except ModuleNotFoundError:
        what = "ldap needs its library; run: apt-get install python3-ldap, or pip install 'acme-milter[ldap]'"
        raise SearchFault(what) from None
    deadline = time.monotonic() + asked.timeout
    try:
        _reach(asked)
        with _connected(asked, deadline) as connection:
            if asked.bind_dn is not None:
                bound = connection.simple_bind(asked.bind_dn, asked.password)
                connection.result3(bound, all=1, timeout=_left(deadline))
            for page in _pages(asked, connection, deadline):
                for dn, attributes in page:
                    emit(dn, attributes if dn is not None else {})
    except ldap.LDAPError as error:
        raise SearchFault(f"{asked.uri}: {_explained(asked, error)}") from None
    except OSError as error:
        raise SearchFault(f"{asked.uri}: cannot be reached ({error.strerror or error})") from None


def _reach(asked: Search) -> None:
    """See whether anybody listens: libldap would not say which of name, network and server is missing."""
    parts = urlsplit(asked.uri)
    if parts.scheme in _PORTS and parts.hostname:
        address = (parts.hostname, parts.port or _PORTS[parts.scheme])
        socket.create_connection(address, timeout=min(_CONNECT_SECONDS, asked.timeout)).close()


@contextmanager
def _connected(asked: Search, deadline: float) -> Iterator[Any]:
    """A connection that has said nothing yet, or StartTLS only."""
    import ldap

    connection = ldap.initialize(asked.uri)
    try:
        connection.set_option(ldap.OPT_PROTOCOL_VERSION, ldap.VERSION3)
        connection.set_option(ldap.OPT_TIMEOUT, _left(deadline))
        connection.set_option(ldap.OPT_REFERRALS, 0)  # nobody else is asked, nor shown the password
        connection.set_option(ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_DEMAND)
        if asked.ca_bundle is not None:
            connection.set_option(ldap.OPT_X_TLS_CACERTFILE, asked.ca_bundle)
        connection.set_option(ldap.OPT_X_TLS_NEWCTX, 0)  # the options above count from here on
        if asked.starttls:
            connection.start_tls_s()
        yield connection
    finally:
        connection.unbind_ext()


def _pages(asked: Search, connection: Any, deadline: float) -> Iterator[Sequence[Any]]:
    import ldap
    from ldap.controls import SimplePagedResultsControl

    scope = ldap.SCOPE_SUBTREE if asked.scope == "sub" else ldap.SCOPE_ONELEVEL
    control = SimplePagedResultsControl(criticality=True, size=asked.page_size, cookie=b"")
    while True:
        seconds = _left(deadline)
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


def _left(deadline: float) -> float:
    """Seconds, always some: libldap takes fewer than none for patience without end. Raises ldap.TIMEOUT."""
    import ldap

    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise ldap.TIMEOUT
    return seconds


def _explained(asked: Search, error: Exception) -> str:
    """What to say of an ldap.LDAPError: what happened, in the server's words where it has some, and what to do."""
    import ldap

    detail = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    told = quoted(str(detail.get("info") or detail.get("desc") or ""))
    words = f" ({told})" if told else ""
    texts: Mapping[type[Exception], str] = {
        ldap.INVALID_CREDENTIALS: f"the login was refused{words}; correct bind.dn or the password it names",
        ldap.INVALID_DN_SYNTAX: f"base or bind.dn is no distinguished name{words}",
        ldap.NO_SUCH_OBJECT: f"base {quoted(asked.base)} is not there, or may not be seen by this login",
        ldap.FILTER_ERROR: f"filter {quoted(asked.filter)} is no LDAP filter",
        ldap.INSUFFICIENT_ACCESS: f"this login may not search below {quoted(asked.base)}{words}",
        ldap.STRONG_AUTH_REQUIRED: f"the directory wants an encrypted connection{words}; use ldaps:// or starttls",
        ldap.CONFIDENTIALITY_REQUIRED: f"the directory wants an encrypted connection{words}; use ldaps:// or starttls",
        ldap.UNAVAILABLE_CRITICAL_EXTENSION: f"the directory cannot give its answer in pages{words}",
        ldap.TIMEOUT: f"no complete answer within {asked.timeout:g} s; raise timeout",
        ldap.TIMELIMIT_EXCEEDED: f"no complete answer in time{words}; raise timeout, or the directory's time limit",
        ldap.SIZELIMIT_EXCEEDED: f"the directory cuts its answer off{words}; give this login a higher size limit",
        ldap.ADMINLIMIT_EXCEEDED: f"the directory cuts its answer off{words}; give this login higher limits",
        ldap.CONNECT_ERROR: f"no encrypted connection{words}; is ca_bundle the CA of its certificate?",
        ldap.SERVER_DOWN: f"its certificate is not trusted, or the connection was lost{words}",
    }
    said = next((text for kind, text in texts.items() if isinstance(error, kind)), None)
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
