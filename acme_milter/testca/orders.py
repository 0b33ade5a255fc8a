# SPDX-License-Identifier: GPL-3.0-or-later
"""Orders: newOrder with `email` identifiers, reading, finalize (RFC 8555 §7.4, RFC 8823 §3)."""

import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta

from acme_milter.testca.addresses import Address, parse_address
from acme_milter.testca.caa import refuse_by_caa
from acme_milter.testca.csr_check import Wanted, check_csr
from acme_milter.testca.encoding import from_base64url
from acme_milter.testca.exchange import Answer, Call, Desk, retry_after
from acme_milter.testca.history import Happening
from acme_milter.testca.issuer import DEFAULT_PROFILE, LONGEST, PROFILES, Leaf, issue
from acme_milter.testca.ledger import Account, Authorization, Challenge, Order, Status, fresh_name
from acme_milter.testca.lifecycle import refresh_authorization, refresh_order
from acme_milter.testca.office import Office
from acme_milter.testca.problem import ProblemError, subproblem

_MOST_IDENTIFIERS = 10
_SHORT = timedelta(days=1)


def _document(office: Office, order: Order) -> dict[str, object]:
    base = office.base_url
    body: dict[str, object] = {
        "status": order.status.value,
        "expires": order.expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "identifiers": [{"type": "email", "value": address} for address in order.identifiers],
        "authorizations": [f"{base}/authorization/{name}" for name in order.authorizations],
        "finalize": f"{base}/order/{order.name}/finalize",
        "profile": order.profile,
    }
    for name, instant in (("notBefore", order.not_before), ("notAfter", order.not_after)):
        if instant is not None:
            body[name] = instant.isoformat()
    if order.replaces is not None:
        body["replaces"] = order.replaces  # RFC 9773 §5: echoed when accepted
    if order.error is not None and not office.chaos.strikes("NO_ERROR_OBJECTS"):
        body["error"] = order.error.document()
    if order.certificate is not None:
        body["certificate"] = f"{base}/certificate/{order.certificate}"
    return body


def _answer(office: Office, order: Order, status: int = 200) -> Answer:
    headers = [("Location", f"{office.base_url}/order/{order.name}")]
    if order.status is Status.PROCESSING:
        headers += retry_after(office)
    return Answer(_document(office, order), status, headers)


def refuse_by_rate(office: Office) -> None:
    """Knob RATELIMIT (RFC 8555 §6.6)."""
    if office.chaos.strikes("RATELIMIT"):
        headers = dict(retry_after(office)) | {"Link": f'<{office.base_url}/limits>;rel="help"'}
        raise ProblemError("rateLimited", "too many requests, says a knob", headers=headers)


async def new_order(desk: Desk, call: Call) -> Answer:
    """RFC 8555 §7.4."""
    office, account = desk.office, call.owner()
    refuse_by_rate(office)
    order = _asked(office, account, call.document())
    await refuse_by_caa(office, order.identifiers)
    open_order = _open_order(office, account, order) if office.chaos.strikes("ORDERREUSE") else None
    if open_order is not None:
        return _answer(office, open_order, 201)
    authorizations = [_authorization(desk, account, identifier) for identifier in order.identifiers]
    order.authorizations = tuple(one.name for one in authorizations)
    office.ledger.orders[order.name] = order
    account.orders.append(order.name)
    for one in authorizations:
        one.orders.append(order.name)
    refresh_order(office, order)
    office.history.add(
        Happening.ORDER,
        order=order.name,
        account=account.name,
        identifiers=list(order.identifiers),
        authorizations=list(order.authorizations),
        profile=order.profile,
        replaces=order.replaces,
    )
    if office.chaos.word("MAIL_AT") == "neworder":
        for one in authorizations:
            if one.status is Status.PENDING:
                await desk.postroom.send_challenge(one)
    return _answer(office, order, 201)


def _asked(office: Office, account: Account, payload: Mapping[str, object]) -> Order:
    """Return the order a payload asks for, not yet in the books and without authorizations."""
    addresses = _identifiers(office, payload.get("identifiers"))
    profile = payload.get("profile", DEFAULT_PROFILE)
    if not isinstance(profile, str) or profile not in PROFILES:
        raise ProblemError("invalidProfile", f"there are the profiles {', '.join(PROFILES)}")
    not_before, not_after = _instant(payload, "notBefore"), _instant(payload, "notAfter")
    start = not_before or office.clock()
    if not_after is not None and not start < not_after <= start + LONGEST:
        raise ProblemError("malformed", "notAfter is before notBefore or too far away")
    return Order(
        name=fresh_name(),
        account=account.name,
        identifiers=tuple(str(address) for address in addresses),
        authorizations=(),
        created=office.clock(),
        expires=office.clock() + timedelta(seconds=office.chaos.seconds("ORDER_LIFETIME")),
        profile=profile,
        not_before=not_before,
        not_after=not_after,
        replaces=_replaces(office, account, payload.get("replaces"), addresses),
    )


def _identifiers(office: Office, identifiers: object) -> list[Address]:
    """RFC 8823 §3: `email` only, no asterisk; each refused one is named in a subproblem."""
    if not isinstance(identifiers, list) or not 1 <= len(identifiers) <= _MOST_IDENTIFIERS:
        raise ProblemError("malformed", f"identifiers is a list of 1 to {_MOST_IDENTIFIERS}")
    refused = {part.strip().lower() for part in office.chaos.word("REFUSE_ADDRESS").split(",")} - {""}
    addresses: list[Address] = []
    for identifier in identifiers:
        if not isinstance(identifier, dict) or not isinstance(identifier.get("value"), str):
            raise ProblemError("malformed", "an identifier is an object with type and value")
        named = {"type": str(identifier.get("type")), "value": str(identifier["value"])}
        if identifier.get("type") != "email":
            raise _refusal("unsupportedIdentifier", "only the identifier type email is supported", named)
        if "*" in named["value"]:
            raise _refusal("rejectedIdentifier", "an email identifier must not hold an asterisk", named)
        try:
            address = parse_address(named["value"])
        except ValueError as error:
            raise _refusal("malformed", str(error), named) from error
        if {str(address).lower(), address.domain} & refused:
            raise _refusal("rejectedIdentifier", "this CA does not issue for this address", named)
        addresses.append(address)
    if len(set(addresses)) != len(addresses):
        raise ProblemError("malformed", "an identifier is named twice")
    return addresses


def _refusal(kind: str, detail: str, identifier: Mapping[str, str]) -> ProblemError:
    return ProblemError(kind, detail, subproblems=[subproblem(kind, detail, identifier)])


def _instant(payload: Mapping[str, object], name: str) -> datetime | None:
    value = payload.get(name)
    if value is None:
        return None
    try:
        instant = datetime.fromisoformat(str(value))
    except ValueError as error:
        raise ProblemError("malformed", f"{name} is not a date of RFC 3339") from error
    if instant.tzinfo is None:
        raise ProblemError("malformed", f"{name} has no time zone (RFC 3339)")
    return instant


def _replaces(office: Office, account: Account, value: object, addresses: list[Address]) -> str | None:
    """RFC 9773 §5."""
    if value is None:
        return None
    issued = office.ledger.certificates.get(office.ledger.by_renewal_id.get(str(value), ""))
    if issued is None or issued.account != account.name:
        raise ProblemError("malformed", "replaces names no certificate of this account")
    if not {str(address) for address in addresses} & set(issued.identifiers):
        raise ProblemError("malformed", "replaces names a certificate of other identifiers")
    if issued.replaced:
        raise ProblemError("alreadyReplaced", "this certificate was replaced already")
    return str(value)


def _open_order(office: Office, account: Account, wanted: Order) -> Order | None:
    for name in reversed(account.orders):
        order = office.ledger.orders[name]
        refresh_order(office, order)
        same = order.identifiers == wanted.identifiers and order.profile == wanted.profile
        if same and order.status in (Status.PENDING, Status.READY):
            return order
    return None


def _authorization(desk: Desk, account: Account, identifier: str) -> Authorization:
    """Return a new authorization with fresh tokens (RFC 8823 §3 step 4), or with AUTHZREUSE a valid one."""
    office = desk.office
    names = office.ledger.by_identifier.get(identifier, [])
    if office.chaos.strikes("AUTHZREUSE"):
        for name in reversed(names):
            known = office.ledger.authorizations[name]
            refresh_authorization(office, known)
            if known.account == account.name and known.status is Status.VALID:
                return known
    name = fresh_name()
    part1 = secrets.token_bytes(office.chaos.number("TOKEN_PART1_BYTES"))
    challenge = Challenge(
        name=fresh_name(),
        authorization=name,
        token_part1=part1,
        token_part2=secrets.token_bytes(20),
        sender=desk.postroom.sender_address(name),
        reply_to=desk.postroom.reply_to(name),
    )
    expires = office.clock() + timedelta(seconds=office.chaos.seconds("AUTHZ_LIFETIME"))
    authorization = Authorization(name, account.name, identifier, expires, challenge)
    if office.chaos.strikes("AUTHZ_PREVALIDATED"):
        authorization.status = challenge.status = Status.VALID
        challenge.mailed = True
    office.ledger.keep(authorization)
    office.history.add(
        Happening.AUTHORIZATION,
        authorization=name,
        account=account.name,
        identifier=identifier,
        **{"from": challenge.sender},  # type: ignore[arg-type]  # mypy thinks of the parameter raw
    )
    return authorization


def _own_order(desk: Desk, call: Call) -> Order:
    order = desk.office.ledger.orders.get(call.path["name"])
    if order is None:
        raise ProblemError("malformed", "no such order", status=404)
    call.owns(order.account)
    refresh_order(desk.office, order)
    return order


async def order(desk: Desk, call: Call) -> Answer:
    """RFC 8555 §7.4: read an order; with FINALIZE_ASYNC each poll brings it nearer to valid."""
    call.only_reads()
    own = _own_order(desk, call)
    if own.status is Status.PROCESSING:
        own.polls_left -= 1
        if own.polls_left <= 0 and own.csr is not None:
            _issue(desk.office, own, check_csr(own.csr, _addresses(own)))
    return _answer(desk.office, own)


async def finalize(desk: Desk, call: Call) -> Answer:
    """RFC 8555 §7.4: only a ready order, only exactly its identifiers; a bad CSR leaves it ready."""
    office, own = desk.office, _own_order(desk, call)
    payload = call.document()
    refuse_by_rate(office)
    if own.status is not Status.READY:
        raise ProblemError("orderNotReady", f"the order is {own.status}, not ready")
    if office.chaos.strikes("FINALIZE_500"):
        raise ProblemError("serverInternal", "finalize failed on purpose; the order is still ready")
    try:
        der = from_base64url(payload.get("csr"))
    except ValueError as error:
        raise ProblemError("malformed", f"csr: {error}") from error
    wanted = check_csr(der, _addresses(own))
    _refuse_account_keys(office, wanted)
    own.csr = der
    office.history.add(Happening.FINALIZED, order=own.name, identifiers=list(own.identifiers))
    if office.chaos.strikes("FINALIZE_ASYNC"):
        own.status, own.polls_left = Status.PROCESSING, office.chaos.number("FINALIZE_POLLS")
    else:
        _issue(office, own, wanted)
    if office.chaos.strikes("FINALIZE_500_LATE"):
        raise ProblemError("serverInternal", "finalize has taken effect, but this answer was made to fail")
    return _answer(office, own)


def _addresses(order: Order) -> tuple[Address, ...]:
    return tuple(parse_address(name) for name in order.identifiers)


def _refuse_account_keys(office: Office, wanted: Wanted) -> None:
    """RFC 8555 §11.1: no account key may be in a certificate."""
    if any(account.key == wanted.key for account in office.ledger.accounts.values()):
        raise ProblemError("badCSR", "the CSR's key is an account key")


def _issue(office: Office, order: Order, wanted: Wanted) -> None:
    start = (order.not_before or office.clock() - timedelta(minutes=1)).replace(microsecond=0)
    lifetime = _SHORT if order.profile == "short" else timedelta(seconds=office.chaos.seconds("CERT_LIFETIME"))
    leaf = Leaf(_addresses(order), wanted, order.profile, start, order.not_after or start + lifetime)
    issued = issue(office.pki, leaf, order.account, office.chaos.word("CERT"))
    office.ledger.certificates[issued.name] = issued
    office.ledger.by_renewal_id[issued.renewal_id] = issued.name
    office.ledger.by_leaf[issued.leaf] = issued.name
    replaced = office.ledger.by_renewal_id.get(order.replaces or "")
    if replaced is not None:
        office.ledger.certificates[replaced].replaced = True
    order.certificate, order.status = issued.name, Status.VALID
    office.history.add(
        Happening.ISSUED,
        order=order.name,
        account=order.account,
        identifiers=list(order.identifiers),
        certificate=issued.name,
        serial=issued.serial,
    )
