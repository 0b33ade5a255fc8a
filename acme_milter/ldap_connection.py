# SPDX-License-Identifier: GPL-3.0-or-later
"""A connection to an LDAP directory: reached, encrypted, logged in, and its refusals in an administrator's words.

libldap's TLS handshake with a server that has stopped answering lasts for ever, and no option bounds it. So this is for
processes that can be killed (`mailboxes.ldap_search`, `delivery.ldap_writer`).
"""

import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from acme_milter.quoting import quoted

LIBRARY_IS_MISSING = "ldap needs its library; run: apt-get install python3-ldap, or pip install 'acme-milter[ldap]'"

_CONNECT_SECONDS = 10.0
_PORTS = {"ldap": 389, "ldaps": 636}
_LOOPBACK = ("127.", "localhost", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Where, and as whom. ``timeout`` in seconds is for all that is asked there; ``bind_dn`` None does not log in."""

    uri: str
    timeout: float
    bind_dn: str | None = None
    password: str = field(default="", repr=False)
    starttls: bool = False
    ca_bundle: str | None = None


def shows_the_password(uri: str, *, starttls: bool) -> bool:
    """True when anybody between us and the directory could read a password that is sent there."""
    host = urlsplit(uri).hostname or ""
    return uri.startswith("ldap://") and not starttls and not host.startswith(_LOOPBACK)


@contextmanager
def connected(login: Login, deadline: float) -> Iterator[Any]:
    """A python-ldap connection that is logged in, for as long as the block lasts; ``deadline`` is of time.monotonic.

    Raises ldap.LDAPError, and OSError when nobody listens there.
    """
    import ldap

    _reach(login)
    connection = ldap.initialize(login.uri)
    try:
        connection.set_option(ldap.OPT_PROTOCOL_VERSION, ldap.VERSION3)
        connection.set_option(ldap.OPT_TIMEOUT, left(deadline))
        connection.set_option(ldap.OPT_REFERRALS, 0)  # nobody else is asked, nor shown the password
        connection.set_option(ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_DEMAND)
        if login.ca_bundle is not None:
            connection.set_option(ldap.OPT_X_TLS_CACERTFILE, login.ca_bundle)
        connection.set_option(ldap.OPT_X_TLS_NEWCTX, 0)  # the options above count from here on
        if login.starttls:
            connection.start_tls_s()
        if login.bind_dn is not None:
            bound = connection.simple_bind(login.bind_dn, login.password)
            connection.result3(bound, all=1, timeout=left(deadline))
        yield connection
    finally:
        connection.unbind_ext()


def _reach(login: Login) -> None:
    """See whether anybody listens: libldap would not say which of name, network and server is missing."""
    address = _address(login.uri)
    if address is not None:
        socket.create_connection(address, timeout=min(_CONNECT_SECONDS, login.timeout)).close()


def _address(uri: str) -> tuple[str, int] | None:
    parts = urlsplit(uri)
    if parts.scheme in _PORTS and parts.hostname:
        return parts.hostname, parts.port or _PORTS[parts.scheme]
    return None


def left(deadline: float) -> float:
    """Seconds, always some: libldap takes fewer than none for patience without end. Raises ldap.TIMEOUT."""
    import ldap

    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise ldap.TIMEOUT
    return seconds


def server_words(error: Exception) -> str:
    """What the server said with an ldap.LDAPError, as ` (…)`, else nothing."""
    detail = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    told = quoted(str(detail.get("info") or detail.get("desc") or ""))
    return f" ({told})" if told else ""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a connection did not come about; ``lasting`` when that stays so until a person changes something."""

    text: str
    lasting: bool = True


def trouble_of(login: Login, error: Exception) -> Trouble | None:
    """What an ldap.LDAPError says about the connection or the login; None when it is about something else."""
    import ldap

    words = server_words(error)
    unencrypted = Trouble(f"the directory wants an encrypted connection{words}; use ldaps:// or starttls")
    anonymous = Trouble(f"the directory wants a login{words}; give it bind: {{dn, password}}")
    refused = Trouble(f"the login was refused{words}; correct bind.dn or the password it names")
    late = Trouble(f"no complete answer within {login.timeout:g} s; raise timeout", lasting=False)
    troubles: Mapping[type[Exception], Trouble] = {
        ldap.INVALID_CREDENTIALS: refused,
        ldap.INAPPROPRIATE_AUTH: refused,
        ldap.STRONG_AUTH_REQUIRED: unencrypted if login.bind_dn else anonymous,
        ldap.CONFIDENTIALITY_REQUIRED: unencrypted,
        ldap.TIMEOUT: late,
        ldap.CONNECT_ERROR: Trouble(f"no encrypted connection{words}; is ca_bundle the CA of its certificate?"),
    }
    if isinstance(error, ldap.SERVER_DOWN):
        doubt = _distrust(login)
        if doubt is not None:
            return Trouble(f"its certificate is not trusted ({doubt}); is ca_bundle the CA of its certificate?")
        return Trouble(f"the connection was lost{words}", lasting=False)
    return next((found for kind, found in troubles.items() if isinstance(error, kind)), None)


def _distrust(login: Login) -> str | None:
    """What is wrong with the certificate of an ldaps:// server, in OpenSSL's words; None when nothing is, or nobody
    can tell. libldap says the same of a certificate that it refuses and of a connection that was cut.
    """
    import ldap

    address = _address(login.uri)
    if address is None or not login.uri.startswith("ldaps://"):
        return None
    try:
        context = ssl.create_default_context(cafile=login.ca_bundle or ldap.get_option(ldap.OPT_X_TLS_CACERTFILE))
        with socket.create_connection(address, timeout=min(_CONNECT_SECONDS, login.timeout)) as plain:
            context.wrap_socket(plain, server_hostname=address[0]).close()
    except ssl.SSLCertVerificationError as refusal:
        return quoted(refusal.verify_message)
    except OSError:
        return None
    return None
