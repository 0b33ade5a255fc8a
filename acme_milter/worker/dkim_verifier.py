# SPDX-License-Identifier: GPL-3.0-or-later
"""The DKIM verdict on a challenge mail: our policy, real keys from the DNS, arithmetic in killable children."""

import time
from datetime import datetime

from acme_milter.protocol.challenge_mail import ChallengeMail
from acme_milter.protocol.dkim_policy import (
    HeaderCoverage,
    Signature,
    Verdict,
    VerdictResult,
    candidate_signatures,
    check_key,
    check_signature,
    key_name,
    parse_key_record,
)
from acme_milter.protocol.faults import MailFault, MailRefused
from acme_milter.worker.arithmetic_pool import ArithmeticPool, VerifierBusy, VerifierLimit
from acme_milter.worker.key_lookup import KeyAbsent, KeyLookup, LookupDeferred

__all__ = ["ArithmeticPool", "DkimVerifier", "VerifierBusy", "VerifierLimit"]

LOOKUP_SECONDS = 5.0

_RESULTS = {
    MailFault.DKIM_NONE: VerdictResult.NONE,
    MailFault.DKIM_TAGS: VerdictResult.PERMERROR,
    MailFault.DKIM_KEY_UNUSABLE: VerdictResult.PERMERROR,
    MailFault.DKIM_LOOKUP_DEFERRED: VerdictResult.TEMPERROR,
    MailFault.VERIFIER_BUSY: VerdictResult.TEMPERROR,
}


class DkimVerifier:
    """Judges ChallengeMails; safe for many threads. `lookup_seconds` bounds the DNS for all signatures of one mail."""

    def __init__(self, pool: ArithmeticPool, key_lookup: KeyLookup, *, lookup_seconds: float = LOOKUP_SECONDS) -> None:
        self._lookup_seconds = lookup_seconds
        self._pool = pool
        self._key_lookup = key_lookup

    def verify(
        self,
        mail: ChallengeMail,
        *,
        coverage: HeaderCoverage,
        now: datetime,
        not_before: datetime | None,
        minimum_rsa_bits: int = 1024,
    ) -> Verdict:
        """Try each aligned signature by itself until one satisfies everything (RFC 6376 §6.1, RFC 8823 §3.1 item 6).

        TEMPERROR when none passed and one could not be judged for want of the DNS or of a free child: trying again
        may help. Otherwise the failure of the first signature is reported. Blocks for up to 5 s of DNS and 5 s of
        arithmetic per signature.
        """
        try:
            candidates = candidate_signatures(mail.headers, mail.sender.domain)
        except MailRefused as refusal:
            return _verdict(refusal, None)
        deadline = time.monotonic() + self._lookup_seconds
        failures: list[Verdict] = []
        for signature in candidates:
            try:
                check_signature(signature, mail.headers, coverage=coverage, now=now, not_before=not_before)
                self._check_arithmetic(mail, signature, minimum_rsa_bits, deadline)
            except MailRefused as refusal:
                failures.append(_verdict(refusal, signature))
            else:
                return Verdict(VerdictResult.PASS, None, "", signature)
        doubts = [failure for failure in failures if failure.result is VerdictResult.TEMPERROR]
        return (doubts or failures)[0]

    def _check_arithmetic(
        self, mail: ChallengeMail, signature: Signature, minimum_rsa_bits: int, deadline: float
    ) -> None:
        name = key_name(signature)
        try:
            txts = self._key_lookup.fetch(name, within=deadline - time.monotonic())
        except KeyAbsent as absence:
            raise MailRefused(MailFault.DKIM_KEY_MISSING, str(absence)) from None
        except LookupDeferred as doubt:
            raise MailRefused(MailFault.DKIM_LOOKUP_DEFERRED, str(doubt)) from None
        record = parse_key_record(txts)
        check_key(record, signature, minimum_rsa_bits=minimum_rsa_bits)
        try:
            valid = self._pool.verify(mail.raw, signature.index, record.canonical())
        except VerifierLimit as limit:
            raise MailRefused(MailFault.VERIFIER_LIMIT, str(limit)) from None
        except VerifierBusy as busy:
            raise MailRefused(MailFault.VERIFIER_BUSY, str(busy)) from None
        if not valid:
            raise MailRefused(MailFault.DKIM_SIGNATURE, "the signature or the body hash does not verify")


def _verdict(refusal: MailRefused, signature: Signature | None) -> Verdict:
    result = _RESULTS.get(refusal.fault, VerdictResult.FAIL)
    return Verdict(result, refusal.fault, refusal.detail, signature)
