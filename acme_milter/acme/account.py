# SPDX-License-Identifier: GPL-3.0-or-later
"""Accounts (RFC 8555 §7.3): register, find, update, agree to new terms, deactivate."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from acme_milter.acme.answer import Answer
from acme_milter.acme.jws import Eab, Signer, external_account_binding, public_jwk
from acme_milter.acme.network import Network
from acme_milter.acme.problem import ErrorType, Problem, ServerRefused

__all__ = ["AccountRef", "AccountStatus", "Eab", "agree", "deactivate", "fetch", "find", "register", "update"]

_ADDRESS = re.compile(r"[^\s@,?]+@[^\s@,?]+")


class AccountStatus(StrEnum):
    """RFC 8555 §7.1.6."""

    VALID = "valid"
    DEACTIVATED = "deactivated"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class AccountRef:
    """url: the account URL, verbatim the `kid` of every later request. terms_url: the terms in force at the
    directory, agreed to if it was `register` that returned this."""

    url: str
    status: AccountStatus
    terms_url: str | None


def register(
    network: Network, signer: Signer, contact: Sequence[str], agree_tos: bool, eab: Eab | None = None
) -> AccountRef:
    """Create the account of this key, or return the existing one (RFC 8555 §7.3, §7.3.1).

    contact: mail addresses, with or without "mailto:". Raises ValueError for a contact that is no plain
    address, ServerRefused (userActionRequired, externalAccountRequired) before asking when the
    directory shows that the server would refuse.
    """
    directory = network.directory()
    meta = directory.meta
    payload: dict[str, object] = {"contact": [_contact(address) for address in contact]}
    if meta.terms is not None and not agree_tos:
        # §7.3: "Clients SHOULD NOT automatically agree to terms"; the person who configures us does.
        raise _foreseen(
            ErrorType.USER_ACTION_REQUIRED, f"the authority asks to agree to its terms: {meta.terms}", meta.terms
        )
    if meta.eab_required and eab is None:
        # §7.3.4: "externalAccountRequired": newAccount without a binding is going to be rejected.
        raise _foreseen(ErrorType.EXTERNAL_ACCOUNT_REQUIRED, "the authority gives accounts only with EAB credentials")
    if agree_tos:
        payload["termsOfServiceAgreed"] = True
    if eab is not None:
        payload["externalAccountBinding"] = external_account_binding(
            eab, url=directory.new_account, jwk=public_jwk(signer)
        )
    return _account(network, network.post(directory.new_account, payload, signer, None))


def find(network: Network, signer: Signer) -> AccountRef | None:
    """Look up the account of this key without creating one (RFC 8555 §7.3.1); None when there is none.

    Answers the doubt after a lost newAccount or keyChange answer.
    """
    try:
        answer = network.post(network.directory().new_account, {"onlyReturnExisting": True}, signer, None)
    except ServerRefused as refusal:
        if refusal.kind is ErrorType.ACCOUNT_DOES_NOT_EXIST:
            return None
        raise
    return _account(network, answer)


def fetch(network: Network, signer: Signer, account_url: str) -> AccountRef:
    """Read the account (POST-as-GET)."""
    return _account(network, network.post(account_url, None, signer, account_url), account_url)


def update(network: Network, signer: Signer, account_url: str, contact: Sequence[str]) -> AccountRef:
    """Replace the contacts (RFC 8555 §7.3.2)."""
    payload = {"contact": [_contact(address) for address in contact]}
    return _account(network, network.post(account_url, payload, signer, account_url), account_url)


def agree(network: Network, signer: Signer, account_url: str) -> AccountRef:
    """Agree to the terms that are in force now (RFC 8555 §7.3.3); only ever because a person said so."""
    network.forget_directory()  # it names them, and is older than they are
    return _account(
        network, network.post(account_url, {"termsOfServiceAgreed": True}, signer, account_url), account_url
    )


def deactivate(network: Network, signer: Signer, account_url: str) -> AccountRef:
    """Close the account for ever (RFC 8555 §7.3.6). Its open orders die; its certificates stay valid."""
    answer = network.post(account_url, {"status": "deactivated"}, signer, account_url)
    return _account(network, answer, account_url)


def _account(network: Network, answer: Answer, url: str | None = None) -> AccountRef:
    # §7.3: 201 for a new and 200 for an existing account both carry its URL in Location.
    return AccountRef(
        url=answer.location("account") if url is None else url,
        status=answer.fields("account").state(AccountStatus),
        terms_url=network.directory().meta.terms,
    )


def _contact(address: str) -> str:
    # §7.3: a mailto URL "MUST NOT contain hfields" nor "more than one addr-spec".
    plain = address.removeprefix("mailto:")
    if not plain.isprintable() or not _ADDRESS.fullmatch(plain):
        raise ValueError(f"contact is not one plain mail address: {address!r}")
    return f"mailto:{plain}"


def _foreseen(kind: ErrorType, detail: str, instance: str = "") -> ServerRefused:
    problem = Problem.of(kind, detail, instance=instance)
    return ServerRefused(str(problem), problem=problem)
