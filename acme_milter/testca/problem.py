# SPDX-License-Identifier: GPL-3.0-or-later
"""Problem documents (RFC 7807 as used by RFC 8555 §6.7), raised as exceptions."""

from collections.abc import Mapping, Sequence

_NAMESPACE = "urn:ietf:params:acme:error:"

# The HTTP status that fits each type unless a clause asks for another one.
_STATUS = {
    "accountDoesNotExist": 400,
    "alreadyReplaced": 409,
    "alreadyRevoked": 400,
    "badCSR": 400,
    "badNonce": 400,
    "badPublicKey": 400,
    "badRevocationReason": 400,
    "badSignatureAlgorithm": 400,
    "caa": 403,
    "dns": 400,
    "externalAccountRequired": 403,
    "incorrectResponse": 403,
    "invalidContact": 400,
    "invalidProfile": 400,
    "malformed": 400,
    "orderNotReady": 403,
    "rateLimited": 429,
    "rejectedIdentifier": 400,
    "serverInternal": 500,
    "unauthorized": 403,
    "unsupportedContact": 400,
    "unsupportedIdentifier": 400,
    "userActionRequired": 403,
}


class ProblemError(Exception):
    """What the client is told instead of an answer.

    `kind` is the last part of the URN; `members` are further members of the document, `headers` of the response.
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        status: int | None = None,
        subproblems: Sequence[Mapping[str, object]] = (),
        members: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.status = _STATUS[kind] if status is None else status
        self.subproblems = tuple(subproblems)
        self.members = dict(members or {})
        self.headers = dict(headers or {})

    def document(self) -> dict[str, object]:
        """Return the problem document as it goes into an answer, a challenge's or an order's `error`."""
        body: dict[str, object] = {"type": _NAMESPACE + self.kind, "detail": self.detail, "status": self.status}
        if self.subproblems:
            body["subproblems"] = [dict(one) for one in self.subproblems]
        return body | self.members


def subproblem(kind: str, detail: str, identifier: Mapping[str, str]) -> dict[str, object]:
    """Return one entry of `subproblems`, which says which identifier it is about (RFC 8555 §6.7.1)."""
    return {"type": _NAMESPACE + kind, "detail": detail, "identifier": dict(identifier)}
