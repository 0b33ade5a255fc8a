# SPDX-License-Identifier: GPL-3.0-or-later
"""The ACME objects and the books they are kept in. All of it lives in memory: a restarted CA has forgotten it."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from acme_milter.testca.encoding import to_base64url
from acme_milter.testca.jws import PublicKey
from acme_milter.testca.problem import ProblemError


class Status(StrEnum):
    """RFC 8555 §7.1.6, for all objects."""

    PENDING = "pending"
    READY = "ready"
    PROCESSING = "processing"
    VALID = "valid"
    INVALID = "invalid"
    DEACTIVATED = "deactivated"
    EXPIRED = "expired"


@dataclass(slots=True)
class Account:
    """RFC 8555 §7.1.2."""

    name: str
    jwk: Mapping[str, object]
    key: PublicKey = field(repr=False)
    thumbprint: str
    contact: list[str]
    terms_version: int
    binding: Mapping[str, object] | None = None
    status: Status = Status.VALID
    orders: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Challenge:
    """An `email-reply-00` challenge (RFC 8823 §3): part 1 goes by mail, part 2 by HTTPS, each of them once."""

    name: str
    authorization: str
    token_part1: bytes = field(repr=False)
    token_part2: bytes = field(repr=False)
    sender: str
    reply_to: str | None = None
    message_id: str | None = None
    status: Status = Status.PENDING
    error: ProblemError | None = None
    validated: datetime | None = None
    posted: bool = False
    mailed: bool = False
    # Whether a reply came, and what it was found to be, once it was read. Later ones do not count (RFC 8823 §6).
    replied: bool = False
    verdict: tuple[str, ...] | None = None


@dataclass(slots=True)
class Authorization:
    """RFC 8555 §7.1.4. `identifier` is the address in canonical spelling."""

    name: str
    account: str
    identifier: str
    expires: datetime
    challenge: Challenge
    status: Status = Status.PENDING
    orders: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Order:
    """RFC 8555 §7.1.3."""

    name: str
    account: str
    identifiers: tuple[str, ...]
    authorizations: tuple[str, ...]
    created: datetime
    expires: datetime
    profile: str
    not_before: datetime | None = None
    not_after: datetime | None = None
    replaces: str | None = None
    status: Status = Status.PENDING
    error: ProblemError | None = None
    csr: bytes | None = field(default=None, repr=False)
    polls_left: int = 0
    certificate: str | None = None


@dataclass(slots=True)
class Issued:
    """A certificate: leaf in DER, chains in PEM (the first one is the default)."""

    name: str
    account: str
    identifiers: tuple[str, ...]
    leaf: bytes = field(repr=False)
    chains: tuple[bytes, ...] = field(repr=False)
    serial: str
    renewal_id: str
    not_before: datetime
    not_after: datetime
    revoked: datetime | None = None
    reason: int | None = None
    replaced: bool = False


@dataclass(slots=True)
class Ledger:
    """All objects by name, and what is looked up by anything else."""

    accounts: dict[str, Account] = field(default_factory=dict)
    by_thumbprint: dict[str, str] = field(default_factory=dict)
    orders: dict[str, Order] = field(default_factory=dict)
    authorizations: dict[str, Authorization] = field(default_factory=dict)
    challenges: dict[str, Challenge] = field(default_factory=dict)
    by_token: dict[str, str] = field(default_factory=dict)
    by_identifier: dict[str, list[str]] = field(default_factory=dict)
    certificates: dict[str, Issued] = field(default_factory=dict)
    by_renewal_id: dict[str, str] = field(default_factory=dict)
    by_leaf: dict[bytes, str] = field(default_factory=dict)

    def keep(self, authorization: Authorization) -> None:
        """Enter an authorization with its challenge, findable by token-part1 and by identifier."""
        challenge = authorization.challenge
        self.authorizations[authorization.name] = authorization
        self.challenges[challenge.name] = challenge
        self.by_token[to_base64url(challenge.token_part1)] = authorization.name
        self.by_identifier.setdefault(authorization.identifier, []).append(authorization.name)

    def orders_with(self, authorization: str) -> list[Order]:
        """Return the orders that an authorization is part of."""
        return [self.orders[name] for name in self.authorizations[authorization].orders]


def fresh_name() -> str:
    """Return an object's name: unguessable, fit for a URL and for a local part."""
    return secrets.token_hex(9)
