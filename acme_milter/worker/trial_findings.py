# SPDX-License-Identifier: GPL-3.0-or-later
"""What a trial of an authority has shown, and the settings that follow from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from acme_milter.acme.directory import Directory
from acme_milter.config.schema import Authority
from acme_milter.enrollment.model import Enrollment, State
from acme_milter.enrollment.staging import rehearsed_for
from acme_milter.protocol.challenge_mail import ChallengeMail, parse_challenge_mail
from acme_milter.protocol.dkim_policy import HeaderCoverage, candidate_signatures, missing_names
from acme_milter.protocol.dkim_signature import Signature
from acme_milter.protocol.faults import MailRefused
from acme_milter.protocol.token import joining_matters
from acme_milter.store.certificates import StoredCertificate

SCHEMA = "acme-milter/authority-test/1"
Document = dict[str, object]

_USUAL_WAIT = timedelta(minutes=30)
_LONGEST_ORDER = timedelta(hours=24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the store has of the trial; ``moments`` as `audit.moments` gives them, ``directory`` None: unreachable,
    ``rate_limits`` by header field.
    """

    enrollment: Enrollment
    settings: Authority
    mail: bytes | None = field(repr=False)
    mailed_at: datetime | None
    smime_signer: str | None
    mails: int
    replied_at: datetime | None
    certificate: StoredCertificate | None
    moments: dict[str, datetime]
    directory: Directory | None
    rate_limits: Mapping[str, str] = field(default_factory=dict)


def findings(seen: Seen) -> Document:
    """A document: what was seen, ``settings`` with the reason for each, and ``notes`` on what was not."""
    mail = _read(seen.mail)
    settings, reasons = _proposed(seen, mail)
    enrollment = seen.enrollment
    return {
        "schema": SCHEMA,
        "authority": rehearsed_for(enrollment.authority),
        "staging": enrollment.authority,
        "mailbox": enrollment.address,
        "state": enrollment.state.value,
        "last_error": enrollment.last_error,
        "directory": _directory(seen.directory),
        "rate_limits": dict(seen.rate_limits),
        "seconds": _seconds(seen),
        "mail": None if mail is None else _mail(mail, seen),
        "certificate": _certificate(seen.certificate),
        "settings": settings,
        "reasons": reasons,
        "notes": _notes(seen, mail),
    }


def _read(raw: bytes | None) -> ChallengeMail | None:
    try:
        return None if raw is None else parse_challenge_mail(raw, require_auto_submitted=False)
    except MailRefused:  # it was let in under other rules, wrapped by a signature perhaps
        return None


def _directory(directory: Directory | None) -> Document | None:
    if directory is None:
        return None
    meta = directory.meta
    return {
        "terms": meta.terms,
        "eab_required": meta.eab_required,
        "profiles": dict(meta.profiles),
        "caa_identities": list(meta.caa_identities),
        "renewal_info": directory.renewal_info is not None,
        "key_change": directory.key_change is not None,
        "revoke_cert": directory.revoke_cert is not None,
    }


def _seconds(seen: Seen) -> Document:
    """How long each part took; None: it did not come to that."""
    moments, enrollment = seen.moments, seen.enrollment
    began, placed = enrollment.began_ordering_at, enrollment.counted_at
    posted, valid = enrollment.challenge_posted_at, moments.get("AuthorizationValid")
    issued = None if seen.certificate is None else seen.certificate.stored_at
    return {
        "order_placed": _between(began, placed if enrollment.order_url is not None else None),
        "challenge_known": _between(placed, moments.get("ChallengeKnown")),
        "mail_came": _between(placed, seen.mailed_at),
        "reply_handed_over": _between(seen.mailed_at, seen.replied_at),
        "validated": _between(seen.replied_at or posted, valid),
        "issued": _between(valid, issued),
        "whole": _between(enrollment.opened_at, issued),
    }


def _between(earlier: datetime | None, later: datetime | None) -> float | None:
    return None if earlier is None or later is None else round((later - earlier).total_seconds(), 2)


def _mail(mail: ChallengeMail, seen: Seen) -> Document:
    part1 = mail.token_part1
    return {
        "from": str(mail.sender),
        "reply_to": None if mail.reply_to is None else str(mail.reply_to),
        "auto_submitted": mail.auto_submitted,
        "date": mail.date is not None,
        "message_id": mail.message_id is not None,
        "token_part1_octets": len(part1.decoded),
        "joining_matters": joining_matters(part1),
        "came_after_post": _after_post(seen),
        "mails": seen.mails,
        "smime_signed": seen.smime_signer is not None,
        "dkim": [
            {
                "domain": signature.domain,
                "selector": signature.selector,
                "algorithm": signature.algorithm.value,
                "signed": list(signature.header_names),
                "not_signed": list(missing_names(signature, mail.headers, HeaderCoverage.STRICT)),
            }
            for signature in _signatures(mail)
        ],
    }


def _signatures(mail: ChallengeMail) -> list[Signature]:
    try:
        return candidate_signatures(mail.headers, mail.sender.domain)
    except MailRefused:  # S/MIME alone has proven it
        return []


def _after_post(seen: Seen) -> bool:
    posted = seen.enrollment.challenge_posted_at
    return seen.mailed_at is not None and posted is not None and posted < seen.mailed_at


def _certificate(certificate: StoredCertificate | None) -> Document | None:
    if certificate is None:
        return None
    return {"issuer": certificate.issuer, "days": (certificate.not_after - certificate.not_before).days}


def _proposed(seen: Seen, mail: ChallengeMail | None) -> tuple[Document, dict[str, str]]:
    """Keys of the authority with their values, and why."""
    found: dict[str, tuple[object, str]] = {}
    enrollment = seen.enrollment
    if seen.mailed_at is not None:
        found |= _timing(seen)
    if mail is not None:
        found |= _form(seen, mail)
    if enrollment.state is State.REHEARSED and mail is not None and joining_matters(mail.token_part1):
        octets = len(mail.token_part1.decoded)
        reason = f"token-part1 has {octets} octets, so that it matters, and this joining was taken"
        found["token_join"] = seen.settings.token_join.value, reason
    placed, expires = enrollment.counted_at, enrollment.order_expires_at
    if placed is not None and expires is not None and expires - placed < _LONGEST_ORDER - timedelta(minutes=1):
        found["order_lifetime"] = _duration(expires - placed), "that long an order lives"
    return {key: value for key, (value, _) in found.items()}, {key: reason for key, (_, reason) in found.items()}


def _timing(seen: Seen) -> dict[str, tuple[object, str]]:
    if _after_post(seen):
        return {"challenge_trigger": ("post-first", "the mail came only after the POST")}
    placed = seen.enrollment.counted_at
    assert placed is not None  # no mail is let in before the order is known
    assert seen.mailed_at is not None
    took = seen.mailed_at - placed
    found: dict[str, tuple[object, str]] = {"challenge_trigger": ("reply-first", "the mail came without a POST")}
    if 3 * took > _USUAL_WAIT:
        found["challenge_wait"] = _duration(3 * took), f"the mail took {_duration(took)}"
    return found


def _form(seen: Seen, mail: ChallengeMail) -> dict[str, tuple[object, str]]:
    found: dict[str, tuple[object, str]] = {}
    if seen.smime_signer is not None:
        found["accept_smime_signed"] = True, "the mail was proven by its S/MIME signature"
    elif signatures := _signatures(mail):
        lacking = [missing_names(one, mail.headers, HeaderCoverage.STRICT) for one in signatures]
        strict = any(not names for names in lacking)
        reason = "a signature covers all that RFC 8823 names" if strict else f"not signed: {', '.join(lacking[0])}"
        found["dkim_headers"] = ("strict" if strict else "present"), reason
    if mail.auto_submitted is None:
        found["require_auto_submitted"] = False, "the mail has no Auto-Submitted"
    if mail.reply_to is not None and mail.reply_to.domain != mail.sender.domain:
        found["reply_to_domains"] = [mail.reply_to.domain], "replies go to another domain than the mail's From"
    return found


def _duration(length: timedelta) -> str:
    minutes = max(1, -(-int(length.total_seconds()) // 60))
    return f"{minutes // 60}h" if minutes % 60 == 0 else f"{minutes}m"


def _notes(seen: Seen, mail: ChallengeMail | None) -> list[str]:
    notes, enrollment = [], seen.enrollment
    if enrollment.order_url is not None and not seen.mails and enrollment.state is not State.REHEARSED:
        notes.append(
            "no challenge mail was let in; if one came, acme-milter's log says why it was not (challenge-refused)"
        )
    if enrollment.state is State.REHEARSED and not seen.mails:
        notes.append("the authorization was valid already, so no mail came; try it with another mailbox")
    if enrollment.state is State.FAILED and mail is not None and joining_matters(mail.token_part1):
        others = " or ".join(sorted({"string", "bytes", "string-padded"} - {seen.settings.token_join.value}))
        notes.append(f"the joining of the token matters here; if the reply was not believed, try --token-join {others}")
    if mail is not None and not joining_matters(mail.token_part1):
        octets = len(mail.token_part1.decoded)
        notes.append(f"token-part1 has {octets} octets: with that every token_join comes to the same")
    if seen.directory is not None and seen.directory.meta.eab_required and seen.settings.eab is None:
        notes.append("it gives accounts only with EAB credentials; set eab")
    if enrollment.last_error is not None and "rateLimited" in enrollment.last_error:
        notes.append("it has limits: set limits.orders_per_hour and limits.mails_per_hour below what it allows")
    return notes
