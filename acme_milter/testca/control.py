# SPDX-License-Identifier: GPL-3.0-or-later
"""The control face for tests: history, knobs, DNS records, hand-made mails. JSON over the same HTTPS server."""

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from acme_milter.testca.chaos import parse_knobs
from acme_milter.testca.exchange import Desk
from acme_milter.testca.history import Happening
from acme_milter.testca.knobs import KNOBS, KnobError
from acme_milter.testca.postroom import Forgery

_LONGEST_WAIT = 30.0
Page = Callable[[Request], Awaitable[Response]]


def _refused(reason: str) -> Response:
    return JSONResponse({"error": reason}, 400)


async def _object(request: Request) -> dict[str, Any]:
    document = await request.json()
    if not isinstance(document, dict):
        raise ValueError("a JSON object is wanted")  # noqa: TRY004 - one kind of refusal
    return document


def history_page(desk: Desk) -> Page:
    """GET ?after=N&kind=K,K&raw=1&wait=SECONDS: events with a number above N, in order; `last` is the newest number."""

    async def page(request: Request) -> Response:
        query = request.query_params
        try:
            after = int(query.get("after", "0"))
            kinds = {Happening(kind) for kind in query.get("kind", "").split(",") if kind}
            seconds = min(float(query.get("wait", "0")), _LONGEST_WAIT)
            if after < 0:
                return _refused("after is 0 or more")
        except ValueError as error:
            return _refused(f"{error}; kinds are {', '.join(Happening)}")
        entries = await desk.office.history.wait(after, kinds, seconds)
        with_raw = query.get("raw", "") not in ("", "0")
        events = [entry.document(with_raw=with_raw) for entry in entries]
        return JSONResponse({"events": events, "last": desk.office.history.last})

    return page


def chaos_page(desk: Desk) -> Page:
    """GET: values and what is valid. POST {"NAME": value}: set, all or none. DELETE: all calm again."""

    async def page(request: Request) -> Response:
        chaos = desk.office.chaos
        if request.method == "POST":
            try:
                document = await _object(request)
                chaos.set(document)
            except ValueError as error:
                return _refused(str(error))
            changed = parse_knobs(document)
            desk.office.history.add(Happening.CHAOS, knobs=changed)
        elif request.method == "DELETE":
            chaos.reset()
            desk.office.history.add(Happening.CHAOS, knobs="reset")
        valid = {name: {"valid": knob.valid(), "meaning": knob.meaning} for name, knob in KNOBS.items()}
        return JSONResponse({"values": chaos.snapshot(), "knobs": valid})

    return page


def dns_page(desk: Desk, records: Mapping[str, list[str]]) -> Page:
    """GET: the TXT records the CA's name server has, by full name."""

    async def page(_request: Request) -> Response:
        port = desk.office.options.dns_listen[1]
        return JSONResponse({"txt": dict(records), "port": port})

    return page


def orders_page(desk: Desk) -> Page:
    """GET: every order with its status and its authorizations' statuses, for a checker at the end of a run."""

    async def page(_request: Request) -> Response:
        ledger = desk.office.ledger
        orders = [
            {
                "order": order.name,
                "account": order.account,
                "identifiers": list(order.identifiers),
                "status": order.status.value,
                "certificate": order.certificate,
                "created": order.created.isoformat(),
                "authorizations": {
                    name: {
                        "status": ledger.authorizations[name].status.value,
                        "challenge": ledger.authorizations[name].challenge.status.value,
                    }
                    for name in order.authorizations
                },
            }
            for order in ledger.orders.values()
        ]
        return JSONResponse({"orders": orders})

    return page


def certificates_page(desk: Desk) -> Page:
    """GET: every certificate ever issued, and whether it was revoked, for a checker at the end of a run."""

    async def page(_request: Request) -> Response:
        certificates = [
            {
                "serial": issued.serial,
                "identifiers": list(issued.identifiers),
                "not_before": issued.not_before.isoformat(),
                "not_after": issued.not_after.isoformat(),
                "revoked": issued.revoked and issued.revoked.isoformat(),
                "reason": issued.reason,
            }
            for issued in desk.office.ledger.certificates.values()
        ]
        return JSONResponse({"certificates": certificates})

    return page


def clock_page(desk: Desk) -> Page:
    """GET: the CA's time. POST {"ahead_seconds": N}: all it dates from now on is N seconds ahead of the machine.

    Its TLS certificate stays of the machine's time, since clients check that by theirs.
    """

    async def page(request: Request) -> Response:
        clock = desk.office.clock
        if request.method == "POST":
            try:
                document = await _object(request)
                if set(document) != {"ahead_seconds"}:
                    return _refused("the one member is ahead_seconds")
                clock.set_ahead(document["ahead_seconds"])
            except ValueError as error:
                return _refused(str(error))
        return JSONResponse({"now": clock().isoformat(), "ahead_seconds": clock.ahead.total_seconds()})

    return page


def mail_page(desk: Desk) -> Page:
    """POST {"to", "kind", "from"?, "token"?, "envelope"?, "recipients"?, "knobs"?, "raw"?}: send any mail at once.

    kind: foreign (good, but of no order), forged-unsigned, forged-other-domain, raw (`raw` is base64).
    """

    async def page(request: Request) -> Response:
        try:
            document = await _object(request)
            forgery = _forgery(document)
            name = desk.postroom.send_forgery(forgery)
        except (KnobError, ValueError, TypeError, binascii.Error) as error:
            return _refused(str(error))
        return JSONResponse({"mail": name}, 202)

    return page


def _forgery(document: Mapping[str, Any]) -> Forgery:
    allowed = {"to", "kind", "from", "token", "envelope", "recipients", "knobs", "raw"}
    unknown = set(document) - allowed
    if unknown or "to" not in document:
        raise ValueError(f"members are {', '.join(sorted(allowed))}; to is needed")
    kind = document.get("kind", "foreign")
    if kind not in ("foreign", "forged-unsigned", "forged-other-domain", "raw"):
        raise ValueError("kind is foreign, forged-unsigned, forged-other-domain or raw")
    if (kind == "raw") != ("raw" in document):
        raise ValueError("kind raw, and only it, has a member raw (base64)")
    return Forgery(
        recipient=str(document["to"]),
        kind=kind,
        sender=document.get("from"),
        token=document.get("token"),
        envelope=document.get("envelope"),
        recipients=tuple(document.get("recipients", ())),
        knobs=dict(document.get("knobs", {})),
        raw=base64.b64decode(document["raw"], validate=True) if kind == "raw" else None,
    )
