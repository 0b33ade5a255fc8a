# SPDX-License-Identifier: GPL-3.0-or-later
"""What went wrong: the server's problem documents (RFC 8555 §6.7, RFC 9457) and our exceptions."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

_URN = "urn:ietf:params:acme:error:"
_LONGEST_FIELD = 2000
_LONGEST_TEXT = 600
_MOST_SUBPROBLEMS = 50
_SHOWN_SUBPROBLEMS = 5


class ErrorType(StrEnum):
    """The registered ACME error types (RFC 8555 §6.7, RFC 9773 §7, draft-ietf-acme-profiles)."""

    ACCOUNT_DOES_NOT_EXIST = "accountDoesNotExist"
    ALREADY_REPLACED = "alreadyReplaced"
    ALREADY_REVOKED = "alreadyRevoked"
    BAD_CSR = "badCSR"
    BAD_NONCE = "badNonce"
    BAD_PUBLIC_KEY = "badPublicKey"
    BAD_REVOCATION_REASON = "badRevocationReason"
    BAD_SIGNATURE_ALGORITHM = "badSignatureAlgorithm"
    CAA = "caa"
    COMPOUND = "compound"
    CONNECTION = "connection"
    DNS = "dns"
    EXTERNAL_ACCOUNT_REQUIRED = "externalAccountRequired"
    INCORRECT_RESPONSE = "incorrectResponse"
    INVALID_CONTACT = "invalidContact"
    INVALID_PROFILE = "invalidProfile"
    MALFORMED = "malformed"
    ORDER_NOT_READY = "orderNotReady"
    RATE_LIMITED = "rateLimited"
    REJECTED_IDENTIFIER = "rejectedIdentifier"
    SERVER_INTERNAL = "serverInternal"
    TLS = "tls"
    UNAUTHORIZED = "unauthorized"
    UNSUPPORTED_CONTACT = "unsupportedContact"
    UNSUPPORTED_IDENTIFIER = "unsupportedIdentifier"
    USER_ACTION_REQUIRED = "userActionRequired"


_PASSES_BY_ITSELF = frozenset(
    {
        ErrorType.BAD_NONCE,
        ErrorType.CONNECTION,
        ErrorType.DNS,
        ErrorType.ORDER_NOT_READY,
        ErrorType.RATE_LIMITED,
        ErrorType.SERVER_INTERNAL,
        ErrorType.TLS,
    }
)
_NEEDS_A_PERSON = frozenset(
    {
        ErrorType.ACCOUNT_DOES_NOT_EXIST,
        ErrorType.BAD_CSR,
        ErrorType.BAD_PUBLIC_KEY,
        ErrorType.BAD_SIGNATURE_ALGORITHM,
        ErrorType.CAA,
        ErrorType.EXTERNAL_ACCOUNT_REQUIRED,
        ErrorType.INVALID_CONTACT,
        ErrorType.INVALID_PROFILE,
        ErrorType.REJECTED_IDENTIFIER,
        ErrorType.UNAUTHORIZED,
        ErrorType.UNSUPPORTED_CONTACT,
        ErrorType.UNSUPPORTED_IDENTIFIER,
        ErrorType.USER_ACTION_REQUIRED,
    }
)


def printable(text: str, limit: int = _LONGEST_TEXT) -> str:
    """Make foreign text fit for a log line or a terminal: non-printables escaped, at most `limit` characters.

    `str.isprintable` is false for C0 and C1 controls, line separators and bidirectional overrides alike.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[:limit])
    return shown if len(shown) <= limit and len(text) <= limit else shown[: limit - 1] + "…"


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem document. Strings are as sent (cut at 2000 characters); `str()` is fit for people.

    `type` is the URI ("about:blank" when absent, RFC 9457 §4.2.1); `status` the document's own or the
    HTTP status; `instance` e.g. the terms to agree to (RFC 8555 §7.3.3); `identifier` the value a
    subproblem is about (§6.7.1); `algorithms` what a badSignatureAlgorithm answer offers (§6.2).
    """

    type: str
    title: str = ""
    detail: str = ""
    status: int | None = None
    instance: str = ""
    identifier: str = ""
    algorithms: tuple[str, ...] = ()
    subproblems: tuple["Problem", ...] = ()

    @classmethod
    def of(cls, kind: ErrorType, detail: str, *, status: int | None = None, instance: str = "") -> "Problem":
        """Build a document of a registered type, for refusals we can foresee without asking the server."""
        return cls(_URN + kind, detail=detail, status=status, instance=instance)

    @classmethod
    def parse(cls, document: object, *, status: int | None = None) -> "Problem":
        """Read a JSON value as a problem document. Never raises: whatever is unreadable is left empty,
        so that a sloppy document does not hide the refusal it stands for."""
        return cls._parse(document, status, nested=False)

    @classmethod
    def _parse(cls, document: object, status: int | None, *, nested: bool) -> "Problem":
        values: Mapping[object, object] = document if isinstance(document, dict) else {}
        own_status = values.get("status")
        identifier = values.get("identifier")
        subproblems = values.get("subproblems")
        algorithms = values.get("algorithms")
        return cls(
            type=_text(values, "type") or "about:blank",
            title=_text(values, "title"),
            detail=_text(values, "detail"),
            status=own_status if type(own_status) is int and 100 <= own_status <= 599 else status,
            instance=_text(values, "instance"),
            identifier=_text(identifier, "value") if isinstance(identifier, dict) else "",
            algorithms=tuple(a[:40] for a in algorithms[:20] if isinstance(a, str))
            if isinstance(algorithms, list)
            else (),
            # RFC 8555 §6.7.1: subproblems do not nest.
            subproblems=tuple(cls._parse(s, None, nested=True) for s in subproblems[:_MOST_SUBPROBLEMS])
            if isinstance(subproblems, list) and not nested
            else (),
        )

    @property
    def kind(self) -> ErrorType | None:
        """The registered type, or None: unknown types are to be ignored (RFC 8555 §6.7)."""
        try:
            return ErrorType(self.type.removeprefix(_URN)) if self.type.startswith(_URN) else None
        except ValueError:
            return None

    @property
    def temporary(self) -> bool:
        """Whether the same request may succeed later without anybody doing anything."""
        if self.kind is ErrorType.COMPOUND and self.subproblems:
            return all(sub.temporary for sub in self.subproblems)
        return self.kind in _PASSES_BY_ITSELF

    @property
    def needs_operator(self) -> bool:
        """Whether ordering anew is pointless until a person has changed something."""
        if self.kind is ErrorType.COMPOUND:
            return any(sub.needs_operator for sub in self.subproblems)
        return self.kind in _NEEDS_A_PERSON

    def __str__(self) -> str:
        """The server's words, one line, at most 600 characters, no control characters."""
        kind = self.type.removeprefix(_URN)
        head = "HTTP" if kind == "about:blank" else kind
        if self.status is not None:
            head += f" {self.status}"
        words = self.detail or self.title
        parts = [f"{head}: {words}" if words else head]
        parts += [
            f"{sub.identifier}: {sub}" if sub.identifier else str(sub) for sub in self.subproblems[:_SHOWN_SUBPROBLEMS]
        ]
        if len(self.subproblems) > _SHOWN_SUBPROBLEMS:
            parts.append(f"and {len(self.subproblems) - _SHOWN_SUBPROBLEMS} more")
        return printable("; ".join(parts))


def _text(values: Mapping[object, object], name: str) -> str:
    value = values.get(name)
    return value[:_LONGEST_FIELD] if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class Link:
    """One Link header value (RFC 8288): relation and absolute URL. Not checked: a page for people may be anywhere."""

    relation: str
    url: str


class AcmeError(Exception):
    """A step failed. `str()` is safe to log and to show (bounded, escaped, no secret).

    problem: the server's own words, when it had any. retry_after: how long it asked to wait (1 s .. 24 h).
    temporary: the same step may succeed later. links and location: from the failed answer's headers.
    """

    safe_text = True

    def __init__(
        self,
        text: str,
        *,
        problem: Problem | None = None,
        retry_after: timedelta | None = None,
        links: tuple[Link, ...] = (),
        location: str | None = None,
        outcome_unknown: bool = False,
    ) -> None:
        """outcome_unknown: the request may have taken effect; read the resource before trying again."""
        super().__init__(printable(text))
        self.problem = problem
        self.retry_after = retry_after
        self.links = links
        self.location = location
        self.outcome_unknown = outcome_unknown

    @property
    def temporary(self) -> bool:
        """Whether trying the same step again later is sensible."""
        return self.problem is not None and self.problem.temporary

    @property
    def kind(self) -> ErrorType | None:
        """The problem's registered type, if there is one."""
        return self.problem.kind if self.problem is not None else None

    def link(self, relation: str) -> str | None:
        """The first link of that relation: "help" (RFC 8555 §6.6), "terms-of-service" (§7.3.3)."""
        return next((link.url for link in self.links if link.relation == relation), None)


class ServerRefused(AcmeError):
    """The server understood and said no (4xx). `problem` is always there; its `temporary` is ours."""


class RateLimited(AcmeError):
    """429 or rateLimited (RFC 8555 §6.6): the whole account or address must wait, not this order alone."""

    @property
    def temporary(self) -> bool:
        """Always."""
        return True


class ServerBusy(AcmeError):
    """5xx, no connection, TLS failure, timeout, connection lost. With `outcome_unknown` the request may
    have been carried out: re-read order, authorization or account before repeating it."""

    @property
    def temporary(self) -> bool:
        """Always."""
        return True


class BadAnswer(AcmeError):
    """The server's answer makes no sense or breaks a rule; the text says which. Not temporary by itself."""
