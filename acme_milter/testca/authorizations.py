# SPDX-License-Identifier: GPL-3.0-or-later
"""Authorizations and their `email-reply-00` challenge (RFC 8555 §7.5, RFC 8823 §3)."""

import asyncio

from acme_milter.testca.encoding import to_base64url
from acme_milter.testca.exchange import Answer, Call, Desk, retry_after
from acme_milter.testca.history import Happening
from acme_milter.testca.ledger import Authorization, Challenge, Status
from acme_milter.testca.lifecycle import decide, refresh_authorization, refresh_order
from acme_milter.testca.office import Office
from acme_milter.testca.problem import ProblemError

_OPEN = (Status.PENDING, Status.PROCESSING)


def _challenge_document(office: Office, challenge: Challenge) -> dict[str, object]:
    body: dict[str, object] = {
        "type": "email-reply-00",
        "url": f"{office.base_url}/challenge/{challenge.name}",
        "status": challenge.status.value,
        "token": to_base64url(challenge.token_part2),
        "from": challenge.sender,
    }
    if challenge.validated is not None:
        body["validated"] = challenge.validated.strftime("%Y-%m-%dT%H:%M:%SZ")
    if challenge.error is not None and not office.chaos.strikes("NO_ERROR_OBJECTS"):
        body["error"] = challenge.error.document()
    return body


def _document(office: Office, authorization: Authorization) -> dict[str, object]:
    return {
        "identifier": {"type": "email", "value": authorization.identifier},
        "status": authorization.status.value,
        "expires": authorization.expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "challenges": [_challenge_document(office, authorization.challenge)],
    }


async def authorization(desk: Desk, call: Call) -> Answer:
    """Read an authorization, whereupon the mail goes out (RFC 8823 §3 step 4), or deactivate it (RFC 8555 §7.5.2)."""
    office = desk.office
    own = office.ledger.authorizations.get(call.path["name"])
    if own is None:
        raise ProblemError("malformed", "no such authorization", status=404)
    call.owns(own.account)
    refresh_authorization(office, own)
    if not call.reads:
        _deactivate(office, own, call.document())
    waiting = own.status is Status.PENDING
    due = waiting and office.chaos.word("MAIL_AT") == "authz" and not own.challenge.mailed
    answer = Answer(_document(office, own), headers=retry_after(office) if waiting else ())
    if not due:
        return answer
    if office.chaos.seconds("MAIL_BEFORE_HTTP") > 0:
        await desk.postroom.send_challenge(own)
        return Answer(_document(office, own), headers=answer.headers)
    return Answer(answer.body, headers=answer.headers, after=lambda: desk.postroom.send_challenge(own))


def _deactivate(office: Office, own: Authorization, payload: dict[str, object]) -> None:
    if payload != {"status": "deactivated"}:
        raise ProblemError("malformed", "an authorization can only be deactivated")
    if own.status not in (Status.PENDING, Status.VALID):
        raise ProblemError("malformed", f"the authorization is {own.status}")
    own.status = Status.DEACTIVATED
    if own.challenge.status in _OPEN:
        own.challenge.status = Status.INVALID
    office.history.add(Happening.DEACTIVATED, authorization=own.name, identifier=own.identifier)
    for order in office.ledger.orders_with(own.name):
        refresh_order(office, order)


async def challenge(desk: Desk, call: Call) -> Answer:
    """RFC 8555 §7.5.1: `{}` says the client is ready; reading it is POST-as-GET."""
    office = desk.office
    asked = office.ledger.challenges.get(call.path["name"])
    if asked is None:
        raise ProblemError("malformed", "no such challenge", status=404)
    own = office.ledger.authorizations[asked.authorization]
    call.owns(own.account)
    refresh_authorization(office, own)
    if not call.reads:
        call.document()
        await _posted(desk, own)
    headers = [("Link", f'<{office.base_url}/authorization/{own.name}>;rel="up"')]
    if asked.status in _OPEN:
        headers += retry_after(office)
    return Answer(_challenge_document(office, asked), headers=headers)


async def _posted(desk: Desk, own: Authorization) -> None:
    office, asked = desk.office, own.challenge
    office.history.add(
        Happening.CHALLENGE_POSTED,
        authorization=own.name,
        identifier=own.identifier,
        first=not asked.posted,
        replied=asked.verdict is not None,
        status=asked.status.value,
    )
    asked.posted = True
    if own.status is not Status.PENDING or asked.status is not Status.PENDING:
        return
    if office.chaos.word("MAIL_AT") == "post" and not asked.mailed:
        asked.status = Status.PROCESSING
        await desk.postroom.send_challenge(own)
    elif asked.verdict is not None:
        decide(office, own, asked.verdict)
    elif office.chaos.strikes("EARLY_POST_INVALID"):
        decide(office, own, ("posted-before-reply",))
    elif office.chaos.strikes("EARLY_POST_FORGOTTEN"):
        asked.posted = False
    else:
        asked.status = Status.PROCESSING
        if office.chaos.strikes("PROCESSING_WITH_ERROR"):
            asked.error = ProblemError("incorrectResponse", "no reply yet, will look again")
        patience = office.chaos.seconds("REPLY_PATIENCE")
        if patience > 0:
            asyncio.get_running_loop().call_later(patience, _lose_patience, office, own)


def _lose_patience(office: Office, own: Authorization) -> None:
    if own.challenge.verdict is None:
        decide(office, own, ("no-reply-in-time",))
