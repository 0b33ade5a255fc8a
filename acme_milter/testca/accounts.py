# SPDX-License-Identifier: GPL-3.0-or-later
"""Accounts: creation with terms and external account binding, update, deactivation, key rollover (RFC 8555 §7.3)."""

from collections.abc import Mapping

from acme_milter.testca.addresses import parse_address
from acme_milter.testca.exchange import Answer, Call, Desk
from acme_milter.testca.history import Happening
from acme_milter.testca.jws import Jws, json_payload, jwk_thumbprint, load_jwk, parse_jws, verify_jws, verify_mac
from acme_milter.testca.ledger import Account, Status, fresh_name
from acme_milter.testca.lifecycle import refresh_order
from acme_milter.testca.office import Office
from acme_milter.testca.problem import ProblemError
from acme_milter.testca.terms import terms_url, version_in_force


def account_url(office: Office, name: str) -> str:
    """Return the URL of an account, which is its kid."""
    return f"{office.base_url}/account/{name}"


def _document(office: Office, account: Account) -> dict[str, object]:
    body: dict[str, object] = {
        "status": account.status.value,
        "contact": account.contact,
        "termsOfServiceAgreed": account.terms_version >= version_in_force(office),
        "orders": f"{account_url(office, account.name)}/orders",
    }
    if account.binding is not None:
        body["externalAccountBinding"] = account.binding
    return body


def _answer(office: Office, account: Account, status: int = 200) -> Answer:
    return Answer(_document(office, account), status, [("Location", account_url(office, account.name))])


async def new_account(desk: Desk, call: Call) -> Answer:
    """RFC 8555 §7.3: make an account, or find the one the key has."""
    office, payload = desk.office, call.document()
    jwk = call.jwk
    assert jwk is not None
    thumbprint = jwk_thumbprint(jwk)
    known = office.ledger.by_thumbprint.get(thumbprint)
    if known is not None:
        account = office.ledger.accounts[known]
        if account.status is not Status.VALID:
            raise ProblemError("unauthorized", f"the account is {account.status}", status=401)
        return _answer(office, account)
    if payload.get("onlyReturnExisting") is True:
        raise ProblemError("accountDoesNotExist", "no account has this key")
    contact = _contact(payload.get("contact", []))
    if payload.get("termsOfServiceAgreed") is not True:
        raise ProblemError(
            "userActionRequired",
            "the terms of service must be agreed to",
            headers={"Link": f'<{terms_url(office)}>;rel="terms-of-service"'},
        )
    binding = _binding(office, payload.get("externalAccountBinding"), call)
    account = Account(fresh_name(), jwk, call.key, thumbprint, contact, version_in_force(office), binding)
    office.ledger.accounts[account.name] = account
    office.ledger.by_thumbprint[thumbprint] = account.name
    office.history.add(Happening.ACCOUNT, account=account.name, contact=contact, bound=binding is not None)
    return _answer(office, account, 201)


def _contact(contact: object) -> list[str]:
    if not isinstance(contact, list) or not all(isinstance(one, str) for one in contact):
        raise ProblemError("malformed", "contact is a list of URLs")
    for url in contact:
        if not url.startswith("mailto:"):
            raise ProblemError("unsupportedContact", "only mailto: is supported")
        try:
            parse_address(url.removeprefix("mailto:"))
        except ValueError as error:
            # RFC 8555 §7.3: no hfields and exactly one address.
            raise ProblemError("invalidContact", f"contact: {error}") from error
    return list(contact)


def _binding(office: Office, binding: object, call: Call) -> Mapping[str, object] | None:
    """RFC 8555 §7.3.4. A failed check rejects the request, also where no binding is needed."""
    if binding is None:
        if office.options.eab:
            raise ProblemError("externalAccountRequired", "this CA wants an external account binding")
        return None
    if not isinstance(binding, dict):
        raise ProblemError("malformed", "externalAccountBinding is not a JWS object")
    jws = parse_jws(binding)
    if jws.header.get("alg") != "HS256" or "nonce" in jws.header or jws.header.get("url") != call.url:
        raise ProblemError("malformed", "the binding needs alg HS256, the same url, and no nonce")
    secret = office.options.eab.get(str(jws.header.get("kid")))
    if secret is None or not verify_mac(jws, secret):
        raise ProblemError("unauthorized", "the external account binding does not verify")
    if json_payload(jws) != call.jwk:
        raise ProblemError("malformed", "the binding's payload is not the account's jwk")
    return binding


async def account(desk: Desk, call: Call) -> Answer:
    """RFC 8555 §7.3.2 and §7.3.6: read, change the contact, deactivate."""
    call.owns(call.path["name"])
    own = call.owner()
    if call.reads:
        return _answer(desk.office, own)
    payload = call.document()
    if "contact" in payload:
        own.contact = _contact(payload["contact"])
    if payload.get("termsOfServiceAgreed") is True:
        own.terms_version = version_in_force(desk.office)
    if payload.get("status") == "deactivated":
        _deactivate(desk.office, own)
    elif "status" in payload and payload["status"] != own.status:
        raise ProblemError("malformed", "an account's status can only become deactivated")
    return _answer(desk.office, own)


def _deactivate(office: Office, own: Account) -> None:
    own.status = Status.DEACTIVATED
    office.history.add(Happening.DEACTIVATED, account=own.name)
    for authorization in office.ledger.authorizations.values():
        if authorization.account == own.name and authorization.status is Status.PENDING:
            authorization.status = Status.DEACTIVATED
            authorization.challenge.status = Status.INVALID
    for name in own.orders:
        refresh_order(office, office.ledger.orders[name])


async def account_orders(desk: Desk, call: Call) -> Answer:
    """RFC 8555 §7.1.2.1: the URLs of the orders that are not invalid."""
    call.owns(call.path["name"])
    call.only_reads()
    orders = [desk.office.ledger.orders[name] for name in call.owner().orders]
    urls = [f"{desk.office.base_url}/order/{order.name}" for order in orders if order.status is not Status.INVALID]
    return Answer({"orders": urls})


async def key_change(desk: Desk, call: Call) -> Answer:
    """RFC 8555 §7.3.5: the outer JWS is signed by the old key, the inner one by the new key."""
    office, own = desk.office, call.owner()
    inner = parse_jws(call.document())
    jwk = inner.header.get("jwk")
    new_key = load_jwk(jwk)
    assert isinstance(jwk, dict)
    verify_jws(inner, new_key)
    _check_rollover(office, call, inner)
    thumbprint = jwk_thumbprint(jwk)
    taken = office.ledger.by_thumbprint.get(thumbprint)
    if taken is not None:
        raise ProblemError(
            "malformed", "the key is used already", status=409, headers={"Location": account_url(office, taken)}
        )
    del office.ledger.by_thumbprint[own.thumbprint]
    own.jwk, own.key, own.thumbprint = jwk, new_key, thumbprint
    office.ledger.by_thumbprint[thumbprint] = own.name
    office.history.add(Happening.ACCOUNT, account=own.name, key_changed=True)
    return _answer(office, own)


def _check_rollover(office: Office, call: Call, inner: Jws) -> None:
    if "nonce" in inner.header or "kid" in inner.header or inner.header.get("url") != call.url:
        raise ProblemError("malformed", "the inner JWS has jwk, the same url, and neither nonce nor kid")
    payload, own = json_payload(inner), call.owner()
    if payload.get("account") != account_url(office, own.name) or payload.get("oldKey") != own.jwk:
        raise ProblemError("malformed", "account and oldKey must be those of the outer JWS")
