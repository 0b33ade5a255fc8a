# SPDX-License-Identifier: GPL-3.0-or-later
"""Orders (RFC 8555 §7.1.3, §7.4): place, read, finalize, download."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from josepy.b64 import b64encode

from acme_milter.acme.answer import Answer
from acme_milter.acme.fields import Fields
from acme_milter.acme.jws import Signer
from acme_milter.acme.network import Network
from acme_milter.acme.problem import BadAnswer, ErrorType, Problem, ServerBusy, ServerRefused, printable

_PEM_LABEL = re.compile(rb"-----(BEGIN|END) ([^\r\n]*?)-----")


class OrderStatus(StrEnum):
    """RFC 8555 §7.1.6: pending → ready → processing → valid, invalid from any. States may be skipped between polls."""

    PENDING = "pending"
    READY = "ready"
    PROCESSING = "processing"
    VALID = "valid"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Identifier:
    """What a certificate is for: type "email" (RFC 8823 §3) and the address."""

    type: str
    value: str

    @classmethod
    def parse(cls, fields: Fields) -> "Identifier":
        """Read an identifier object."""
        return cls(fields.text("type"), fields.text("value"))


@dataclass(frozen=True, slots=True)
class Order:
    """RFC 8555 §7.1.3, times in UTC. finalize is None only in an invalid order, certificate before valid.

    retry_after: how long the server asked to wait before the next look, None when it did not say.
    profile and replaces: as echoed by the server (draft-ietf-acme-profiles, RFC 9773 §5).
    """

    url: str
    status: OrderStatus
    expires: datetime | None
    identifiers: tuple[Identifier, ...]
    authorizations: tuple[str, ...]
    finalize: str | None
    certificate: str | None
    error: Problem | None
    profile: str | None = None
    replaces: str | None = None
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class CertificateChain:
    """pem: the chain as sent, leaf first. alternates: URLs of other chains for the same leaf (RFC 8555 §7.4.2)."""

    pem: bytes
    alternates: tuple[str, ...]


def new_order(
    network: Network,
    signer: Signer,
    account_url: str,
    address: str,
    profile: str | None = None,
    replaces: str | None = None,
    aliases: Sequence[str] = (),
) -> Order:
    """Order a certificate for a mail address and its aliases (RFC 8555 §7.4, RFC 8823 §3). Store `url` at once: nothing
    repeats it, and the server may hand back an order it already has.

    replaces: renewal id of the predecessor, left out when the server knows no renewalInfo (RFC 9773 §5:
    SHOULD NOT); after 409 alreadyReplaced order again without it.
    Raises ValueError for an address with "*", ServerRefused(invalidProfile) for a profile not advertised.
    """
    addresses = [address, *aliases]
    if any("*" in one for one in addresses):
        # RFC 8823 §3: the value of an "email" identifier in newOrder MUST NOT contain "*".
        raise ValueError('an address with "*" cannot be ordered')
    directory = network.directory()
    payload: dict[str, object] = {"identifiers": [{"type": "email", "value": one} for one in addresses]}
    if profile is not None:
        _check_profile(profile, list(directory.meta.profiles))
        payload["profile"] = profile
    if replaces is not None and directory.renewal_info is not None:
        payload["replaces"] = replaces
    answer = network.post(directory.new_order, payload, signer, account_url)
    order = _parse(answer, answer.location("newOrder"))
    ordered = [(i.type, i.value.casefold()) for i in order.identifiers]
    if sorted(ordered) != sorted(("email", one.casefold()) for one in addresses):
        # A CA may fold case, and list them in an order of its own; anything else is an order for somebody else.
        raise BadAnswer("newOrder: the order is not for the address asked for")
    return order


def fetch_order(network: Network, signer: Signer, account_url: str, url: str) -> Order:
    """Read an order (POST-as-GET)."""
    return _parse(network.post(url, None, signer, account_url), url)


def finalize(network: Network, signer: Signer, account_url: str, order: Order, csr_der: bytes) -> Order:
    """Send the CSR (RFC 8555 §7.4). The answer may be `processing`: poll the order's URL.

    Raises ServerRefused: orderNotReady (temporary: poll on), badCSR (the order stays ready for another CSR).
    After a ServerBusy re-read the order first: it may be valid already.
    """
    if order.finalize is None:
        raise ValueError(f"an order that is {order.status} cannot be finalized")
    payload = {"csr": b64encode(csr_der).decode("ascii")}
    # §7.4 lets this answer repeat Location; we know the order's URL, and not every server sends it.
    return _parse(network.post(order.finalize, payload, signer, account_url), order.url)


def download_chain(network: Network, signer: Signer, account_url: str, url: str) -> CertificateChain:
    """Fetch the certificate (RFC 8555 §7.4.2). Raises ServerBusy for what may be there in a moment: 404, an
    incomplete body. Whether it is the right certificate is for others to judge."""
    accept = "application/pem-certificate-chain"
    try:
        answer = network.post(url, None, signer, account_url, accept=accept)
    except ServerRefused as refusal:
        if refusal.problem is None or refusal.problem.status != 404:
            raise
        # Replicas lag behind the order that names the certificate.
        raise ServerBusy(str(refusal), problem=refusal.problem, retry_after=refusal.retry_after) from None
    _check_pem(answer.body)
    alternates = [link.url for link in answer.links if link.relation == "alternate"]
    return CertificateChain(
        answer.body, tuple(network.origin.check(alternate, "alternate chain") for alternate in alternates)
    )


def download_certificate(network: Network, signer: Signer, account_url: str, url: str) -> bytes:
    """The PEM chain of `download_chain`."""
    return download_chain(network, signer, account_url, url).pem


def _parse(answer: Answer, url: str) -> Order:
    fields = answer.fields("order")
    status = fields.state(OrderStatus)
    certificate = fields.optional_url("certificate")
    finalize_url = fields.optional_url("finalize")
    if finalize_url is None and status is not OrderStatus.INVALID:
        raise fields.fault("finalize", "missing")
    if certificate is None and status is OrderStatus.VALID:
        raise fields.fault("certificate", "missing although the order is valid")
    return Order(
        url=url,
        status=status,
        expires=fields.time("expires"),
        identifiers=tuple(Identifier.parse(fields.nested(item, "identifiers")) for item in fields.items("identifiers")),
        authorizations=tuple(
            answer.origin.check(item, "order: authorizations") for item in fields.items("authorizations")
        ),
        finalize=finalize_url,
        certificate=certificate,
        error=fields.problem(),
        profile=fields.optional_text("profile"),
        replaces=fields.optional_text("replaces"),
        retry_after=answer.retry_after,
    )


def _check_profile(profile: str, offered: list[str]) -> None:
    # draft-ietf-acme-profiles: a client SHOULD NOT request a profile that is not advertised.
    if profile not in offered:
        names = printable(", ".join(offered), 200) or "none"
        problem = Problem.of(ErrorType.INVALID_PROFILE, f"no profile {profile!r}; the directory offers: {names}")
        raise ServerRefused(str(problem), problem=problem)


def _check_pem(body: bytes) -> None:
    labels: list[tuple[bytes, bytes]] = _PEM_LABEL.findall(body)
    # RFC 8555 §11.4: "clients MUST … verify" that nothing but certificates is in the body (key injection).
    if any(label != b"CERTIFICATE" for _, label in labels):
        raise BadAnswer("certificate: the body holds a PEM block that is no certificate")
    words = [word for word, _ in labels]
    if body.strip() and words[:1] != [b"BEGIN"]:
        raise BadAnswer("certificate: the body is not a PEM chain")
    if not words or words != [b"BEGIN", b"END"] * (len(words) // 2):
        raise ServerBusy("certificate: the body ends early")
