# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking in a certificate request that a mailbox has brought, its key being elsewhere: what `cert request` wants."""

import base64
import binascii
import uuid
from collections.abc import Callable
from datetime import datetime

import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from acme_milter.certificate.request import BroughtRequest, RequestRefused, read_request
from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.config.member import Member
from acme_milter.config.schema import Config, Policy
from acme_milter.enrollment.kinds import Opening, in_use, opening_of, usages_of
from acme_milter.enrollment.model import Enrollment, State
from acme_milter.enrollment.staging import is_staging
from acme_milter.eventlog import Event, log_event
from acme_milter.keys.jwk import public_jwk
from acme_milter.store import accounts, audit, enrollments, mailbox_keys, revocations
from acme_milter.store.database import Database
from acme_milter.store.mailbox_keys import StoredMailboxKey
from acme_milter.worker.accounts import thumbprint_of

LARGEST = 64 * 1024
"""Octets of a request; one with an RSA-4096 key has some two thousand."""


class RequestCall:
    """Answers the control socket's call ``certificate-request``."""

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        database: Database,
        clock: Callable[[], datetime],
        work_is_due: Callable[[], None],
    ) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._work_is_due = work_is_due

    def answer(self, header: dict[str, object]) -> dict[str, object]:
        """``address``, and ``request``: PKCS#10 in DER or PEM, as base64. ``{"error": "refused", "text": …}`` says what
        is wrong with it; else ``id``, ``usage`` and whether the order was ``opened`` or had ``waited`` for it.
        """
        try:
            result = self._take(str(header.get("address")), _octets(header.get("request")))
        except RequestRefused as refused:
            return {"error": "refused", "text": str(refused)}
        self._work_is_due()
        return result

    def _take(self, address: str, octets: bytes) -> dict[str, object]:
        config, now = self._config(), self._clock()
        member = config.member(address)
        policy = None if member is None else config.policy_for(member.address)
        if member is None or policy is None:
            raise RequestRefused(f"{address} is not a managed mailbox; see why with: acme-milter mailbox why {address}")
        if policy.custody != "csr":
            raise RequestRefused(
                f"the policy of {member.address} says custody: {policy.custody}, so its key is made here;"
                " a mailbox that brings requests has custody: csr"
            )
        request = read_request(octets, member.address)
        _check_usage(request, policy)
        key = StoredMailboxKey(
            id=uuid.uuid4().hex, principal=member.principal, algorithm=request.algorithm, sealed_key=b"",
            spki=request.spki, csr=request.der, created_at=now,
        )  # fmt: skip
        with self._database.write() as connection:
            key_id = _kept(connection, key)
            if key_id == key.id:
                mailbox_keys.insert(connection, key)
            outcome, enrollment = _put_to_use(connection, policy, member, key_id, request.usage, now)
            details = {"usage": request.usage, "algorithm": request.algorithm}
            audit.record(
                connection, Event.KEY_BROUGHT, at=now, enrollment_id=enrollment.id, address=member.address,
                details=details,
            )  # fmt: skip
        log_event(
            Event.KEY_BROUGHT, rcpt=member.address, order=enrollment.id, usage=request.usage, key=request.algorithm
        )
        return {"address": member.address, "outcome": outcome, "id": enrollment.id, "usage": request.usage.value}


def _octets(value: object) -> bytes:
    try:
        octets = base64.b64decode(str(value), validate=True)
    except (binascii.Error, ValueError):
        raise RequestRefused("the request did not come through whole") from None
    if len(octets) > LARGEST:
        raise RequestRefused(f"is larger than {LARGEST // 1024} KiB, so no certificate request")
    return octets


def _check_usage(request: BroughtRequest, policy: Policy) -> None:
    wanted = usages_of(policy.certificate.layout)
    if request.usage in wanted:
        return
    if len(wanted) == 1:
        raise RequestRefused(
            f"asks for a certificate to {request.usage} only, and the policy says layout: single; leave keyUsage out"
        )
    raise RequestRefused(
        "asks for a certificate that signs and encrypts, and the policy says layout: dual; bring one request whose"
        " keyUsage is digitalSignature, and one whose keyUsage is keyEncipherment (RSA) or keyAgreement (EC)"
    )


def _kept(connection: sa.Connection, key: StoredMailboxKey) -> str:
    """The id under which the key is known, or is to be. Raises RequestRefused for one that must not be certified."""
    thumbprint = _thumbprint_of(key.spki)
    if thumbprint is not None and accounts.has_key(connection, thumbprint):
        raise RequestRefused("its key is an ACME account's, which must not be in a certificate (RFC 8555 §11.1)")
    for known in mailbox_keys.with_public_key(connection, key.spki):
        if known.principal != key.principal:
            raise RequestRefused("its key is another mailbox's; each has a key of its own")
        if known.sealed_key or known.destroyed_at is not None:
            raise RequestRefused("its key was made here; custody: csr wants one that never was")
        if revocations.is_compromised(connection, known.id):
            raise RequestRefused("a certificate with its key was revoked for key-compromise; make a new key")
        if known.csr == key.csr:
            return known.id
    return key.id


def _thumbprint_of(spki: bytes) -> str | None:
    """The key's name among account keys; None for a kind of key that none of these is."""
    public = serialization.load_der_public_key(spki)
    if isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1):
        return thumbprint_of(public_jwk(public))
    return None


def _put_to_use(
    connection: sa.Connection,
    policy: Policy,
    member: Member,
    key_id: str,
    usage: KeyUsageKind,
    now: datetime,
) -> tuple[str, Enrollment]:
    """Give it to the order that waits for it, or open one; an order that is under way goes on as it is.

    A rehearsal gets nothing: its order would be the request's only one, and bring no certificate.
    """
    address = member.address
    known = enrollments.of_mailbox(connection, address)
    held = in_use(known, {member.principal}, policy.authorities[0])
    opening = opening_of((usage,), held, again=True) or Opening(usage)
    waiting = next((one for one in known if one.is_open and not is_staging(one.authority)), None)
    if waiting is not None:
        replaces_id = waiting.replaces_id if waiting.usage is usage else opening.replaces_id
        if waiting.state is not State.PLANNED or not enrollments.bring_key(
            connection, waiting, key_id, usage=usage, replaces_id=replaces_id, now=now
        ):
            raise RequestRefused(
                f"an order for {address} is under way ({waiting.state}); bring the request when that has ended"
            )
        return "waited", waiting
    opened = enrollments.open_new(
        connection,
        address=address,
        principal=member.principal,
        authority=policy.authorities[0],
        now=now,
        replaces_id=opening.replaces_id,
        usage=usage,
        key_id=key_id,
    )
    audit.record(connection, Event.ENROLLMENT_OPENED, at=now, enrollment_id=opened.id, address=address)
    return "opened", opened
