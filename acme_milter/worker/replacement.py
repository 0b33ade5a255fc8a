# SPDX-License-Identifier: GPL-3.0-or-later
"""What a renewal takes over from the certificate that it replaces: its name at the authority, and perhaps its key."""

from collections.abc import Sequence
from http import HTTPStatus

import sqlalchemy as sa

from acme_milter.acme.problem import ErrorType, ServerRefused
from acme_milter.acme.revocation import RevocationReason
from acme_milter.certificate.csr import csr_is_for, csr_usage
from acme_milter.config.schema import Policy
from acme_milter.enrollment.model import Enrollment
from acme_milter.store import bulk_runs, certificates, mailbox_keys
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database
from acme_milter.store.mailbox_keys import StoredMailboxKey
from acme_milter.store.schema import certificate as certificate_table
from acme_milter.store.schema import revocation
from acme_milter.worker.renewal_information import renewal_id

_UNWANTED = frozenset({ErrorType.ALREADY_REPLACED, ErrorType.MALFORMED, ErrorType.UNAUTHORIZED})


def replaced_id(database: Database, enrollment: Enrollment) -> str | None:
    """RFC 9773 §4.1: the authority's name for the certificate to be replaced; None where it has none."""
    with database.read() as connection:
        stored = _replaced(connection, enrollment)
    if stored is None or stored.authority != enrollment.authority:
        return None
    try:
        return renewal_id(stored)
    except ValueError:
        return None


def refuses_replacement(refused: ServerRefused) -> bool:
    """RFC 9773 §5: 409 alreadyReplaced, or another answer that the field `replaces` may be the reason of.

    Ordering without it is safe to try: what is refused for another reason is refused again.
    """
    status = None if refused.problem is None else refused.problem.status
    return refused.kind in _UNWANTED or status in {HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND}


def key_to_reuse(database: Database, enrollment: Enrollment, policy: Policy, aliases: Sequence[str] = ()) -> str | None:
    """The replaced certificate's key, where the policy keeps keys and this one may be kept; None: make a new one.

    Never another person's key, another algorithm's, one whose request is for other addresses or another use, one that
    is here no more, or a compromised one. Of a key that never was here the request serves again (custody csr).
    """
    if policy.renewal.key != "reuse":
        return None
    with database.read() as connection:
        stored = _replaced(connection, enrollment)
        if stored is None or (stored.principal, stored.address) != (enrollment.principal, enrollment.address):
            return None
        key = mailbox_keys.get(connection, stored.key_id)
        fits = key.principal == enrollment.principal and _is_ours_to_use(key, policy)
        fits = fits and csr_usage(key.csr) is enrollment.usage
        # The certificate's row follows when the mailbox is spelled anew; the request is signed and does not.
        fits = fits and csr_is_for(key.csr, enrollment.address, *aliases)
        compromised = _is_compromised(connection, stored) or _is_replaced_as_compromised(connection, enrollment)
        return key.id if fits and not compromised else None


def _is_ours_to_use(key: StoredMailboxKey, policy: Policy) -> bool:
    if policy.custody == "csr":
        return not key.sealed_key and key.destroyed_at is None
    return bool(key.sealed_key) and key.algorithm == policy.certificate.key


def _replaced(connection: sa.Connection, enrollment: Enrollment) -> StoredCertificate | None:
    if enrollment.replaces_id is None:
        return None
    return certificates.find(connection, enrollment.replaces_id)


def _is_replaced_as_compromised(connection: sa.Connection, enrollment: Enrollment) -> bool:
    """A bulk run revokes what it replaces only afterwards, but says from the start for which reason."""
    run = None if enrollment.bulk_run_id is None else bulk_runs.get(connection, enrollment.bulk_run_id)
    return run is not None and run.revoke_reason == RevocationReason.KEY_COMPROMISE.value


def _is_compromised(connection: sa.Connection, stored: StoredCertificate) -> bool:
    """Whether any certificate with this key was revoked, or is to be, because the key is not secret any more."""
    query = (
        sa.select(sa.literal(1))
        .select_from(certificate_table.join(revocation, revocation.c.certificate_id == certificate_table.c.id))
        .where(
            certificate_table.c.address == stored.address,
            certificate_table.c.key_id == stored.key_id,
            revocation.c.reason == RevocationReason.KEY_COMPROMISE.value,
        )
    )
    return connection.execute(query).first() is not None
