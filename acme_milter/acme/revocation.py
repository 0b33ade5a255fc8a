# SPDX-License-Identifier: GPL-3.0-or-later
"""Revocation (RFC 8555 §7.6)."""

from enum import IntEnum

from josepy.b64 import b64encode

from acme_milter.acme.jws import Signer
from acme_milter.acme.network import Network
from acme_milter.acme.problem import BadAnswer, ErrorType, ServerRefused


class RevocationReason(IntEnum):
    """CRLReason of RFC 5280 §5.3.1 as far as a subscriber may give one."""

    UNSPECIFIED = 0
    KEY_COMPROMISE = 1
    AFFILIATION_CHANGED = 3
    SUPERSEDED = 4
    CESSATION_OF_OPERATION = 5


def revoke(
    network: Network,
    signer: Signer,
    account_url: str | None,
    certificate_der: bytes,
    reason: RevocationReason | None = None,
) -> bool:
    """Revoke a certificate (leaf, DER). True: revoked now; False: it already was, which is as good.

    The signer is the issuing account, another account with authorizations for all its addresses, or, with
    account_url None, the certificate's own key. Raises ServerRefused(badRevocationReason): try without one.
    """
    url = network.directory().revoke_cert
    if url is None:
        raise BadAnswer("directory: the authority offers no revokeCert")
    payload: dict[str, object] = {"certificate": b64encode(certificate_der).decode("ascii")}
    if reason is not None:
        payload["reason"] = int(reason)
    try:
        network.post(url, payload, signer, account_url)
    except ServerRefused as refusal:
        if refusal.kind is ErrorType.ALREADY_REVOKED:
            return False
        raise
    return True
