# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates: download with alternate chains, revocation by three kinds of signer, renewal information."""

from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from acme_milter.testca.encoding import from_base64url
from acme_milter.testca.exchange import Answer, Call, Desk
from acme_milter.testca.history import Happening
from acme_milter.testca.issuer import foreign_block
from acme_milter.testca.ledger import Issued, Status
from acme_milter.testca.lifecycle import refresh_authorization
from acme_milter.testca.office import Office
from acme_milter.testca.problem import ProblemError

# RFC 5280 §5.3.1; the S/MIME BR §7.2.2 let a subscriber choose among these.
_REASONS = {0, 1, 3, 4, 5, 9}


async def certificate(desk: Desk, call: Call) -> Answer:
    """RFC 8555 §7.4.2: the chain in PEM, leaf first; the other chain is linked as an alternate."""
    call.only_reads()
    issued = desk.office.ledger.certificates.get(call.path["name"])
    if issued is None:
        raise ProblemError("malformed", "no such certificate", status=404)
    call.owns(issued.account)
    number = int(call.path.get("number", "0"))
    if number >= len(issued.chains):
        raise ProblemError("malformed", "no such chain", status=404)
    url = f"{desk.office.base_url}/certificate/{issued.name}"
    alternate = desk.office.chaos.word("ALTERNATE")
    others = [index for index in range(len(issued.chains)) if index != number and alternate != "none"]
    links = [("Link", f'<{url}{f"/{index}" if index else ""}>;rel="alternate"') for index in others]
    chain = foreign_block() if number and alternate == "broken" else b""
    return Answer(issued.chains[number] + chain, headers=links, media_type="application/pem-certificate-chain")


async def revoke(desk: Desk, call: Call) -> Answer:
    """RFC 8555 §7.6: signed by the issuing account, by one with all authorizations, or by the certificate's key."""
    office, payload = desk.office, call.document()
    try:
        leaf = from_base64url(payload.get("certificate"))
    except ValueError as error:
        raise ProblemError("malformed", f"certificate: {error}") from error
    issued = office.ledger.certificates.get(office.ledger.by_leaf.get(leaf, ""))
    if issued is None:
        raise ProblemError("malformed", "this CA did not issue that certificate", status=404)
    if not _may_revoke(office, call, issued):
        raise ProblemError("unauthorized", "neither the issuing account, nor all authorizations, nor the key")
    if office.chaos.word("REVOCATION") == "refused":
        raise ProblemError("unauthorized", "this CA revokes by telephone only")
    if issued.revoked is not None:
        raise ProblemError("alreadyRevoked", "the certificate is revoked already")
    reason = payload.get("reason", 0)
    if "reason" in payload and office.chaos.word("REVOCATION") == "noreason":
        raise ProblemError("badRevocationReason", "this CA takes no reasons")
    if not isinstance(reason, int) or isinstance(reason, bool) or reason not in _REASONS:
        raise ProblemError("badRevocationReason", f"reasons are {sorted(_REASONS)}")
    issued.revoked, issued.reason = office.clock(), reason
    office.history.add(
        Happening.REVOKED, certificate=issued.name, serial=issued.serial, reason=reason, by_key=call.account is None
    )
    return Answer(None)


def _may_revoke(office: Office, call: Call, issued: Issued) -> bool:
    if call.account is None:
        key = x509.load_der_x509_certificate(issued.leaf).public_key()
        form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return key.public_bytes(*form) == call.key.public_bytes(*form)
    if call.account.name == issued.account:
        return True
    held = set()
    for one in office.ledger.authorizations.values():
        refresh_authorization(office, one)
        if one.account == call.account.name and one.status is Status.VALID:
            held.add(one.identifier)
    return set(issued.identifiers) <= held


def renewal_information(office: Office, identity: str) -> dict[str, object]:
    """RFC 9773 §4: the suggested window, by knob ARI; a revoked certificate's lies in the past."""
    issued = office.ledger.certificates.get(office.ledger.by_renewal_id.get(identity, ""))
    if issued is None:
        raise ProblemError("malformed", "no such certificate", status=404)
    now, form = office.clock(), office.chaos.word("ARI")
    lifetime = issued.not_after - issued.not_before
    start, end = issued.not_before + lifetime * 2 / 3, issued.not_before + lifetime * 3 / 4
    if form == "now":
        start, end = now - timedelta(seconds=1), now + timedelta(seconds=2)
    elif form == "past" or issued.revoked is not None:
        start, end = now - timedelta(days=2), now - timedelta(days=1)
    elif form == "backwards":
        start, end = end, start
    window = {name: instant.strftime("%Y-%m-%dT%H:%M:%SZ") for name, instant in (("start", start), ("end", end))}
    return {"suggestedWindow": window, "explanationURL": f"{office.base_url}/terms"}
