# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTPS as we want it: TLS 1.2 or newer, always verified, pooled, every exchange bounded in time and size.

Requests go through an `HTTPAdapter` without a `Session`: so there are no cookies, no redirects, no
`.netrc`, and no proxy or CA bundle from the environment.
"""

import ssl
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import certifi
import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import get_environ_proxies
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError

from acme_milter.acme.problem import BadAnswer, ServerBusy

LARGEST_BODY = 1024 * 1024
_CONNECT_TIMEOUT = 10.0
_exchange = threading.local()


class _BoundedSocket(ssl.SSLSocket):
    """Ends a read when the whole exchange is over its time.

    A socket timeout alone starts anew with every byte: a server that drips one byte a minute would
    hold a thread for ever.
    """

    def recv_into(self, buffer, nbytes=None, flags=0):  # type: ignore[no-untyped-def]  # as in ssl.SSLSocket
        deadline: float | None = getattr(_exchange, "deadline", None)
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the answer took too long")
            self.settimeout(left)
        return super().recv_into(buffer, nbytes, flags)


def tls_context(ca_bundle: Path | None) -> ssl.SSLContext:
    """Trust the CAs of `ca_bundle` (PEM) and no other, or the system's when None; TLS 1.2 or newer.

    Only on a host without any system store the bundle shipped with requests is used.
    Raises OSError or ssl.SSLError when the bundle cannot be read.
    """
    cafile = None if ca_bundle is None else str(ca_bundle)
    if cafile is None:
        paths = ssl.get_default_verify_paths()
        cafile = None if paths.cafile or paths.capath else certifi.where()
    context = ssl.create_default_context(cafile=cafile)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = _BoundedSocket
    return context


class _PinnedAdapter(HTTPAdapter):
    """requests' adapter with our TLS context and nothing added to it."""

    def __init__(self, context: ssl.SSLContext, connections: int) -> None:
        self._context = context
        super().__init__(pool_connections=4, pool_maxsize=connections, pool_block=True)

    def init_poolmanager(self, connections, maxsize, block=False, **pool_kwargs):  # type: ignore[no-untyped-def]  # stub
        super().init_poolmanager(connections, maxsize, block, ssl_context=self._context, **pool_kwargs)

    def proxy_manager_for(self, proxy, **proxy_kwargs):  # type: ignore[no-untyped-def]  # stub
        return super().proxy_manager_for(proxy, ssl_context=self._context, **proxy_kwargs)

    def cert_verify(self, conn, url, verify, cert):  # type: ignore[no-untyped-def]  # stub
        # The inherited method would add the shipped bundle's roots to a context that pins one CA.
        conn.cert_reqs = "CERT_REQUIRED"
        conn.ca_certs = conn.ca_cert_dir = None

    def close(self) -> None:
        # The inherited method leaves idle connections open until the last exception that saw them is gone.
        pools = self.poolmanager.pools
        for key in pools.keys():  # noqa: SIM118  # urllib3's container cannot be iterated
            pools[key].close()
        super().close()


class Transport:
    """Sends one request, returns one bounded answer. Thread-safe; at most `connections` at once, kept alive."""

    def __init__(
        self, *, ca_bundle: Path | None, timeout: float, connections: int, system_proxies: bool = False
    ) -> None:
        """timeout: seconds for one whole exchange. system_proxies: obey https_proxy of the environment."""
        self._adapter = _PinnedAdapter(tls_context(ca_bundle), connections)
        self._timeout = timeout
        self._system_proxies = system_proxies

    def exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, CaseInsensitiveDict[str], bytes]:
        """Send and read to the end: status, header fields, body (at most 1 MiB).

        Raises ServerBusy when no whole answer arrived, BadAnswer when it is too large or encoded.
        """
        request = requests.Request(method, url, headers=dict(headers), data=body).prepare()
        # RFC 8555 §6.4: the server compares the signed "url" with the URL requested.
        request.url = url
        _exchange.deadline = time.monotonic() + self._timeout
        proxies = get_environ_proxies(url) if self._system_proxies else {}
        timeouts = (min(_CONNECT_TIMEOUT, self._timeout), self._timeout)
        try:
            response = self._adapter.send(request, stream=True, timeout=timeouts, proxies=proxies)
            try:
                return response.status_code, response.headers, _bounded_body(response)
            finally:
                response.close()
        except (requests.RequestException, HTTPError, OSError) as error:
            lost = method == "POST" and not _never_sent(error)
            # The cause is told in words and not chained: its frames hold the request and the connection.
            raise ServerBusy(f"{_host(url)}: {_reason(error)}", outcome_unknown=lost) from None
        finally:
            _exchange.deadline = None

    def close(self) -> None:
        """Close the pooled connections."""
        self._adapter.close()


def _bounded_body(response: requests.Response) -> bytes:
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise BadAnswer("the answer is compressed although we asked for it plain")
    parts: list[bytes] = []
    size = 0
    while part := response.raw.read1(65536):
        size += len(part)
        if size > LARGEST_BODY:
            raise BadAnswer(f"the answer is larger than {LARGEST_BODY} bytes")
        parts.append(part)
    return b"".join(parts)


def _host(url: str) -> str:
    return url.split("/", 3)[2]


def _chain(error: BaseException) -> list[BaseException]:
    """The exception and all it was made from: requests and urllib3 wrap the cause several layers deep."""
    chain: list[BaseException] = []
    pending: list[object] = [error]
    while pending and len(chain) < 20:
        current = pending.pop(0)
        if isinstance(current, BaseException) and not any(current is seen for seen in chain):
            chain.append(current)
            reason = current.reason if isinstance(current, MaxRetryError) else None
            pending += [current.__cause__, current.__context__, reason, *current.args]
    return chain


def _never_sent(error: BaseException) -> bool:
    # Without a connection, or with one refused for its certificate, nothing of ours has left.
    early = (requests.ConnectTimeout, NewConnectionError, ssl.SSLCertVerificationError)
    return any(isinstance(cause, early) for cause in _chain(error))


def _reason(error: BaseException) -> str:
    causes = _chain(error)
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"TLS certificate refused: {cause.verify_message}"
    for cause in causes:
        if isinstance(cause, requests.Timeout | TimeoutError):
            return "timeout"
    for cause in causes:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    return f"connection lost ({type(causes[-1]).__name__})"
