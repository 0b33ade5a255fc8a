# SPDX-License-Identifier: GPL-3.0-or-later
"""The routes of the CA's HTTPS server, and the server itself."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator, Mapping
from email.utils import format_datetime

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from acme_milter.testca import accounts, authorizations, certificates, control, orders
from acme_milter.testca.clock import Clock
from acme_milter.testca.encoding import to_json
from acme_milter.testca.exchange import (
    Answer,
    Desk,
    Handler,
    SignedBy,
    exchange,
    finished,
    problem_answer,
    retry_after,
)
from acme_milter.testca.issuer import PROFILES
from acme_milter.testca.office import Office
from acme_milter.testca.pki import Pki
from acme_milter.testca.problem import ProblemError
from acme_milter.testca.terms import terms_url

_RENEWAL_INFO_SECONDS = 6 * 3600
_RESOURCES: tuple[tuple[str, Handler, SignedBy], ...] = (
    ("/new-account", accounts.new_account, SignedBy.KEY),
    ("/account/{name}", accounts.account, SignedBy.ACCOUNT),
    ("/account/{name}/orders", accounts.account_orders, SignedBy.ACCOUNT),
    ("/key-change", accounts.key_change, SignedBy.ACCOUNT),
    ("/new-order", orders.new_order, SignedBy.ACCOUNT),
    ("/order/{name}", orders.order, SignedBy.ACCOUNT),
    ("/order/{name}/finalize", orders.finalize, SignedBy.ACCOUNT),
    ("/authorization/{name}", authorizations.authorization, SignedBy.ACCOUNT),
    ("/challenge/{name}", authorizations.challenge, SignedBy.ACCOUNT),
    ("/certificate/{name}", certificates.certificate, SignedBy.ACCOUNT),
    ("/certificate/{name}/{number:int}", certificates.certificate, SignedBy.ACCOUNT),
    ("/revoke-cert", certificates.revoke, SignedBy.EITHER),
)


def directory_document(office: Office) -> dict[str, object]:
    """Return the directory (RFC 8555 §7.1.1, RFC 9773 §3, draft-ietf-acme-profiles)."""
    base = office.base_url
    return {
        "newNonce": f"{base}/new-nonce",
        "newAccount": f"{base}/new-account",
        "newOrder": f"{base}/new-order",
        "revokeCert": f"{base}/revoke-cert",
        "keyChange": f"{base}/key-change",
        "renewalInfo": f"{base}/renewal-info",
        "meta": {
            "termsOfService": terms_url(office),
            "caaIdentities": [office.options.domain],
            "externalAccountRequired": bool(office.options.eab),
            "profiles": PROFILES,
        },
    }


def application(desk: Desk, records: Mapping[str, list[str]]) -> Starlette:
    """Return the ASGI application: ACME resources and the control face."""
    office = desk.office

    async def directory(_request: Request) -> Response:
        return Response(to_json(directory_document(office)), media_type="application/json")

    async def new_nonce(request: Request) -> Response:
        response = finished(office, Answer(None, 200 if request.method == "HEAD" else 204))
        del response.headers["Content-Type"]
        return response

    async def renewal_info(request: Request) -> Response:
        try:
            window = certificates.renewal_information(office, request.path_params["identity"])
            answer = Answer(window, headers=retry_after(office, _RENEWAL_INFO_SECONDS))
        except ProblemError as problem:
            answer = problem_answer(problem)
        return finished(office, answer)

    async def terms(_request: Request) -> Response:
        return PlainTextResponse("This CA is for tests. Its certificates prove nothing to anybody.\n")

    async def refused(_request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        detail = {404: "no such resource", 405: "this method is not allowed here (RFC 8555 §6.3)"}
        problem = ProblemError("malformed", detail.get(status, "the request cannot be read"), status=status)
        if isinstance(error, HTTPException) and error.headers:
            problem.headers.update(error.headers)
        return finished(office, problem_answer(problem))

    handlers: dict[int | type[Exception], ExceptionHandler] = {HTTPException: refused}
    return Starlette(
        routes=[
            Route("/directory", directory, methods=["GET"]),
            Route("/new-nonce", new_nonce, methods=["GET", "HEAD"]),
            Route("/renewal-info/{identity}", renewal_info, methods=["GET"]),
            Route("/terms", terms, methods=["GET"]),
            Route("/terms/{version}", terms, methods=["GET"]),
            *(Route(path, exchange(desk, handler, by), methods=["POST"]) for path, handler, by in _RESOURCES),
            Route("/control/history", control.history_page(desk), methods=["GET"]),
            Route("/control/chaos", control.chaos_page(desk), methods=["GET", "POST", "DELETE"]),
            Route("/control/dns", control.dns_page(desk, records), methods=["GET"]),
            Route("/control/orders", control.orders_page(desk), methods=["GET"]),
            Route("/control/certificates", control.certificates_page(desk), methods=["GET"]),
            Route("/control/mail", control.mail_page(desk), methods=["POST"]),
            Route("/control/clock", control.clock_page(desk), methods=["GET", "POST"]),
        ],
        middleware=[Middleware(_Dated, clock=office.clock)],
        exception_handlers=handlers,
    )


class _Dated:
    """Puts the CA's own time into every answer's Date (RFC 9110 §6.6.1)."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                date = format_datetime(self._clock(), usegmt=True).encode("ascii")
                message["headers"] = [*message.get("headers", ()), (b"date", date)]
            await send(message)

        await self._app(scope, receive, dated)


class OpenConnections:
    """The HTTP server's open connections by client address, so that knobs can cut one."""

    def __init__(self) -> None:
        self.transports: dict[tuple[str, int], asyncio.Transport] = {}

    def cut(self, client: tuple[str, int]) -> None:
        """Abort a client's connection: it sees a reset, or an end without an answer."""
        transport = self.transports.get(client)
        if transport is not None:
            transport.abort()

    def cut_all(self) -> None:
        """Abort every connection. A TLS client that does not read would keep an orderly close waiting."""
        for transport in list(self.transports.values()):
            transport.abort()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process: uvicorn would raise them again after its end."""
        yield


def https_server(app: Starlette, pki: Pki, connections: OpenConnections) -> uvicorn.Server:
    """Return a server to be run on an already bound socket."""

    class Protocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
            super().connection_made(transport)
            if self.client is not None:
                connections.transports[self.client] = transport

        def connection_lost(self, exc: Exception | None) -> None:
            if self.client is not None:
                connections.transports.pop(self.client, None)
            super().connection_lost(exc)

    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    return _Server(
        uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,  # uvicorn's is the machine's time
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
            ssl_certfile=str(pki.tls_certificate),
            ssl_keyfile=str(pki.tls_key),
        )
    )


def bind_tcp(address: tuple[str, int]) -> socket.socket:
    """Return a bound TCP socket; port 0 picks a free one. OSError."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is named; with it an answer takes 40 ms.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock
