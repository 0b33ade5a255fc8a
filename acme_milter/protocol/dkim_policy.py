# SPDX-License-Identifier: GPL-3.0-or-later
"""Which DKIM signature proves a challenge mail: RFC 8823 §3.1 item 6 on top of RFC 6376, the arithmetic excepted.

A library that calls a signature "good" has not said that it covers the Subject we read, nor that its key may be used.
Every signature is judged by itself; the h= of one never helps the d= of another (RFC 6376 §6.1).
"""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from acme_milter.protocol.dkim_key import KeyKind, KeyRecord, check_key, key_name, parse_key_record
from acme_milter.protocol.dkim_signature import (
    Signature,
    SignatureAlgorithm,
    parse_signature,
    signature_domain,
    signature_tags,
)
from acme_milter.protocol.faults import MailFault, MailRefused
from acme_milter.protocol.headers import Headers
from acme_milter.protocol.mail_date import InvalidDate, parse_date

__all__ = [
    "RECOMMENDED_NAMES",
    "REPLY_NAMES",
    "REQUIRED_CHALLENGE_NAMES",
    "HeaderCoverage",
    "KeyKind",
    "KeyRecord",
    "Signature",
    "SignatureAlgorithm",
    "Verdict",
    "VerdictResult",
    "candidate_signatures",
    "check_key",
    "check_signature",
    "key_name",
    "missing_names",
    "parse_key_record",
]

MAX_CANDIDATES = 3
CLOCK_SLOP = timedelta(seconds=300)
AGE_SLOP = timedelta(minutes=10)

# RFC 8823 §3.2 item 9: what the signature of a reply covers at least, absent fields listed too.
REPLY_NAMES = (
    "from",
    "sender",
    "reply-to",
    "to",
    "cc",
    "subject",
    "date",
    "in-reply-to",
    "references",
    "message-id",
    "content-type",
    "content-transfer-encoding",
)
# RFC 8823 §3.1 item 6: the same for a challenge mail, and Auto-Submitted.
REQUIRED_CHALLENGE_NAMES = (*REPLY_NAMES[:10], "auto-submitted", *REPLY_NAMES[10:])
# The SHOULD of both items.
RECOMMENDED_NAMES = (
    "resent-date",
    "resent-from",
    "resent-to",
    "resent-cc",
    "list-id",
    "list-help",
    "list-unsubscribe",
    "list-subscribe",
    "list-post",
    "list-owner",
    "list-archive",
    "list-unsubscribe-post",
)


class HeaderCoverage(StrEnum):
    """How h= is read: STRICT wants all 13 names even for absent fields, PRESENT those that occur in the mail."""

    STRICT = "strict"
    PRESENT = "present"


class VerdictResult(StrEnum):
    """The words of RFC 8601 §2.7.1 that apply."""

    NONE = "none"
    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What DKIM says about a challenge mail; `fault` and `detail` explain anything but PASS.

    `signature` is the one that passed, or the one whose failure is reported, where there is one.
    """

    result: VerdictResult
    fault: MailFault | None
    detail: str
    signature: Signature | None

    @property
    def passed(self) -> bool:
        """Whether the mail is proven."""
        return self.result is VerdictResult.PASS


def candidate_signatures(headers: Headers, from_domain: str) -> list[Signature]:
    """The signatures worth trying, top first: d= equal to the From domain, of proper form, at most three looked at.

    RFC 8823 §3.1 item 6 wants the same domain: no parent, no subdomain, no i=. `from_domain` is a Mailbox's domain.
    Raises MailRefused when none is left: DKIM_NONE, DKIM_DOMAIN, or the flaw of the first that was aligned.
    """
    fields = headers.all(b"DKIM-Signature")
    if not fields:
        raise MailRefused(MailFault.DKIM_NONE, "there is no DKIM-Signature")
    flaws: list[MailRefused] = []
    unreadable: list[MailRefused] = []
    candidates: list[Signature] = []
    for index, item in enumerate(fields):
        if len(candidates) + len(flaws) == MAX_CANDIDATES:
            break
        try:
            tags = signature_tags(item.value)
        except MailRefused as flaw:
            unreadable.append(flaw)
            continue
        if signature_domain(tags) != from_domain:
            continue
        try:
            candidates.append(parse_signature(index, tags))
        except MailRefused as flaw:
            flaws.append(flaw)
    if not candidates:
        other = MailRefused(MailFault.DKIM_DOMAIN, "no DKIM-Signature has a d= equal to the domain of From")
        raise next(iter([*flaws, *unreadable]), other)
    return candidates


def missing_names(signature: Signature, headers: Headers, coverage: HeaderCoverage) -> tuple[str, ...]:
    """Which of the 13 names h= fails to cover, in the RFC's order; empty when it covers all it must.

    A name must occur in h= as often as in the mail, for a signature covers the bottom-most instances only (RFC 6376
    §5.4.2), and under STRICT once at least.
    """
    listed = Counter(signature.header_names)
    least = 1 if coverage is HeaderCoverage.STRICT else 0
    return tuple(
        name for name in REQUIRED_CHALLENGE_NAMES if listed[name] < max(least, len(headers.all(name.encode("ascii"))))
    )


def check_signature(
    signature: Signature,
    headers: Headers,
    *,
    coverage: HeaderCoverage,
    now: datetime,
    not_before: datetime | None,
) -> None:
    """Whether this signature covers what RFC 8823 demands and is of our time; raises MailRefused.

    `not_before` is when the order was created: ten minutes before it is the oldest t= or Date admitted, so that an
    old challenge mail cannot be replayed. t= may be 300 s ahead, x= 300 s past.
    """
    missing = missing_names(signature, headers, coverage)
    if missing:
        raise MailRefused(MailFault.DKIM_COVERAGE, _coverage_detail(missing, headers))
    _check_times(signature, now, not_before)
    found = headers.at_most_one(b"Date")
    if found is None and signature.timestamp is None and not_before is not None:
        # Nothing would tell it from a mail that answered an order of last year.
        raise MailRefused(MailFault.DKIM_TIME, "neither Date nor DKIM-Signature's t= says when it was made")
    if found is not None and not_before is not None:
        try:
            written = parse_date(found.value)
        except InvalidDate as problem:
            raise MailRefused(MailFault.DATE_MALFORMED, f"Date is {problem}") from None
        if written < not_before - AGE_SLOP:
            raise MailRefused(MailFault.DKIM_TIME, "Date is before the order was made")


def _coverage_detail(missing: tuple[str, ...], headers: Headers) -> str:
    detail = f"DKIM-Signature's h= does not cover {', '.join(missing)}"
    if any(headers.all(name.encode("ascii")) for name in missing):
        return detail
    return f"{detail}, all absent from this mail (relaxed by dkim_headers: present)"


def _check_times(signature: Signature, now: datetime, not_before: datetime | None) -> None:
    slop = CLOCK_SLOP.total_seconds()
    signed, expires = signature.timestamp, signature.expiration
    if signed is not None and signed > now.timestamp() + slop:
        raise MailRefused(MailFault.DKIM_TIME, "DKIM-Signature's t= is in the future")
    if expires is not None and expires < now.timestamp() - slop:
        raise MailRefused(MailFault.DKIM_TIME, "DKIM-Signature's x= is in the past")
    if signed is not None and expires is not None and expires <= signed:
        raise MailRefused(MailFault.DKIM_TIME, "DKIM-Signature's x= is not after its t=")
    if signed is not None and not_before is not None and signed < (not_before - AGE_SLOP).timestamp():
        raise MailRefused(MailFault.DKIM_TIME, "DKIM-Signature's t= is before the order was made")
