# SPDX-License-Identifier: GPL-3.0-or-later
"""One ACME request: verify it as RFC 8555 §6 demands, run its handler, answer with nonce and links, or misbehave."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import format_datetime
from enum import Enum
from typing import Protocol

from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from acme_milter.testca.encoding import to_json
from acme_milter.testca.history import Happening
from acme_milter.testca.jws import Jws, PublicKey, json_payload, load_jwk, parse_jws, verify_jws
from acme_milter.testca.ledger import Account, Status
from acme_milter.testca.office import Office
from acme_milter.testca.postroom import Postroom
from acme_milter.testca.problem import ProblemError
from acme_milter.testca.terms import demand_agreement

_LARGEST_BODY = 128 * 1024
_LIMIT_FIELDS = {
    "draft": [("RateLimit-Policy", '"orders";q=300;w=3600'), ("RateLimit", '"orders";r=299;t=1800')],
    "older": [("RateLimit-Limit", "300"), ("RateLimit-Remaining", "299"), ("RateLimit-Reset", "1800")],
    "x": [("X-RateLimit-Limit", "300"), ("X-Rate-Limit-Remaining", "299")],
}


class Connections(Protocol):
    """Knows the open HTTP connections by the client's address."""

    def cut(self, client: tuple[str, int]) -> None:
        """Reset the connection of a client."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What every handler is given."""

    office: Office
    postroom: Postroom
    connections: Connections


class SignedBy(Enum):
    """Whose key a resource wants (RFC 8555 §6.2): an account's (kid), a new one's (jwk), or either."""

    ACCOUNT = "kid"
    KEY = "jwk"
    EITHER = "either"


@dataclass(frozen=True, slots=True)
class Call:
    """A verified request. `account` is set when it was signed with a kid, `jwk` when with a jwk."""

    path: Mapping[str, str]
    url: str
    jws: Jws = field(repr=False)
    key: PublicKey = field(repr=False)
    jwk: Mapping[str, object] | None
    account: Account | None

    @property
    def reads(self) -> bool:
        """It is a POST-as-GET (RFC 8555 §6.3)."""
        return self.jws.payload == b""

    def document(self) -> dict[str, object]:
        """Return the payload; ProblemError `malformed` when it is no JSON object."""
        return json_payload(self.jws)

    def only_reads(self) -> None:
        """Refuse a payload where only POST-as-GET makes sense."""
        if not self.reads:
            raise ProblemError("malformed", "this resource takes POST-as-GET: an empty payload (RFC 8555 §6.3)")

    def owner(self) -> Account:
        """Return the account that signed."""
        assert self.account is not None
        return self.account

    def owns(self, account: str) -> None:
        """Refuse access to an object of another account."""
        if self.owner().name != account:
            raise ProblemError("unauthorized", "this belongs to another account")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler returns. `after` runs when the answer is out."""

    body: Mapping[str, object] | bytes | None
    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    media_type: str = "application/json"
    after: Callable[[], Awaitable[None]] | None = None


Handler = Callable[[Desk, Call], Awaitable[Answer]]


def retry_after(office: Office, seconds: int | None = None) -> list[tuple[str, str]]:
    """Return a Retry-After header in the form of knob RETRY_AFTER (RFC 9110 §10.2.3)."""
    form = office.chaos.word("RETRY_AFTER")
    seconds = office.chaos.number("RETRY_AFTER_SECONDS") if seconds is None else seconds
    text = {
        "int": str(seconds),
        "date": format_datetime(office.clock() + timedelta(seconds=seconds), usegmt=True),
        "garbage": "soon, or perhaps later",
        "huge": "99999999999",
        "neg": "-5",
    }.get(form)
    return [] if text is None else [("Retry-After", text)]


def exchange(desk: Desk, handler: Handler, signed_by: SignedBy) -> Callable[[Request], Awaitable[Response]]:
    """Return the HTTP endpoint of a handler."""

    async def endpoint(request: Request) -> Response:
        office, began = desk.office, time.perf_counter()
        await asyncio.sleep(office.chaos.uniform(0, office.chaos.seconds("SLOW")))
        call: Call | None = None
        if office.chaos.strikes("HTTP_5XX"):
            answer = _server_trouble(office)
        else:
            try:
                call = await _verified(office, request, signed_by)
                answer = await handler(desk, call)
            except ProblemError as problem:
                answer = problem_answer(problem)
        office.history.add(
            Happening.HTTP,
            method=request.method,
            path=request.url.path,
            status=answer.status,
            account=call.account.name if call is not None and call.account is not None else None,
            milliseconds=round((time.perf_counter() - began) * 1000, 2),
        )
        response = finished(office, answer)
        if call is not None and office.chaos.strikes("CRASH"):
            os._exit(70)
        if call is not None and office.chaos.strikes("HTTP_RESET_AFTER_COMMIT"):
            assert request.client is not None
            desk.connections.cut((request.client.host, request.client.port))
        return response

    return endpoint


def finished(office: Office, answer: Answer) -> Response:
    """Turn an answer into a response with a fresh nonce and the index link (RFC 8555 §6.5 and §7.1)."""
    content = to_json(answer.body) if isinstance(answer.body, Mapping) else answer.body
    background = BackgroundTask(_do, answer.after) if answer.after is not None else None
    response = Response(content, answer.status, media_type=answer.media_type, background=background)
    for name, value in answer.headers:
        response.headers.append(name, value)
    response.headers.append("Link", f'<{office.base_url}/directory>;rel="index"')
    response.headers["Replay-Nonce"] = office.nonces.new()
    response.headers["Cache-Control"] = "no-store"
    for name, value in _LIMIT_FIELDS.get(office.chaos.word("LIMIT_FIELDS"), ()):
        response.headers.append(name, value)
    return response


async def _do(after: Callable[[], Awaitable[None]]) -> None:
    # Starlette would run anything but an `async def` in a thread.
    await after()


def problem_answer(problem: ProblemError) -> Answer:
    """Return the answer that carries a problem document."""
    return Answer(
        problem.document(), problem.status, tuple(problem.headers.items()), media_type="application/problem+json"
    )


def _server_trouble(office: Office) -> Answer:
    if office.chaos.uniform(0, 1) < 0.5:
        return problem_answer(ProblemError("serverInternal", "trouble made on purpose"))
    page = b"<html><body>503 Service Unavailable</body></html>"
    return Answer(page, 503, retry_after(office), media_type="text/html")


async def _verified(office: Office, request: Request, signed_by: SignedBy) -> Call:
    if not request.headers.get("user-agent"):
        raise ProblemError("malformed", "a client must send User-Agent (RFC 8555 §6.1)")
    if request.headers.get("content-type") != "application/jose+json":
        raise ProblemError("malformed", "Content-Type must be application/jose+json (RFC 8555 §6.2)", status=415)
    jws = parse_jws(await _body(request))
    url = office.base_url + request.url.path + (f"?{request.url.query}" if request.url.query else "")
    jwk, account, key = _signer(office, jws, signed_by)
    verify_jws(jws, key)
    if jws.header.get("url") != url:
        raise ProblemError("unauthorized", "the url header is not the URL of this request (RFC 8555 §6.4)")
    if not office.nonces.use(jws.header.get("nonce")):
        raise ProblemError("badNonce", "the nonce is unknown or was used before (RFC 8555 §6.5)")
    if office.chaos.strikes("NONCEREJECT"):
        raise ProblemError("badNonce", "the nonce was good, but this one is refused on purpose")
    if account is not None and account.status is not Status.VALID:
        raise ProblemError("unauthorized", f"the account is {account.status}", status=401)
    if account is not None and "/account/" not in request.url.path:  # there it can agree
        demand_agreement(office, account)
    return Call(request.path_params, url, jws, key, jwk, account)


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST_BODY:
            raise HTTPException(413)
    return body


def _signer(
    office: Office, jws: Jws, signed_by: SignedBy
) -> tuple[Mapping[str, object] | None, Account | None, PublicKey]:
    jwk, kid = jws.header.get("jwk"), jws.header.get("kid")
    if (jwk is None) == (kid is None):
        raise ProblemError("malformed", "a request has either jwk or kid, and only one of them (RFC 8555 §6.2)")
    if kid is None:
        if signed_by is SignedBy.ACCOUNT:
            raise ProblemError("malformed", "this resource wants a kid (RFC 8555 §6.2)")
        key = load_jwk(jwk)
        assert isinstance(jwk, dict)
        return jwk, None, key
    if signed_by is SignedBy.KEY:
        raise ProblemError("malformed", "this resource wants a jwk (RFC 8555 §6.2)")
    prefix = f"{office.base_url}/account/"
    account = office.ledger.accounts.get(kid.removeprefix(prefix)) if isinstance(kid, str) else None
    if account is None or kid != prefix + account.name:
        raise ProblemError("accountDoesNotExist", "kid is not the URL of an account")
    return None, account, account.key
