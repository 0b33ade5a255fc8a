# SPDX-License-Identifier: GPL-3.0-or-later
"""The view `mailbox`: one mailbox's whole story in one timeline, the newest order in detail, older ones in a line."""

from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import datetime

import sqlalchemy as sa

from acme_milter.acme.revocation import RevocationReason
from acme_milter.config.schema import Config
from acme_milter.enrollment.model import OPEN_STATES, Cause, Enrollment, State
from acme_milter.eventlog import Event
from acme_milter.report.certificate_list import certificate_row
from acme_milter.report.delivery_timeline import TOLD_BY_DELIVERIES, delivery_entries
from acme_milter.report.mailbox_story import story_of
from acme_milter.report.member import Known, look_up
from acme_milter.report.noted_words import is_told_by, tells_first, words_of
from acme_milter.report.rows import Row, instant
from acme_milter.report.why import why_of
from acme_milter.store import timeline
from acme_milter.store.departures import Departure
from acme_milter.store.timeline import CertificateLine, Mail, Noted

SCHEMA = "acme-milter/mailbox/1"
OLDER = 20
"""Older orders that are told, each in one line."""
NOTES = 100

_CAUSES = {
    Cause.ASKED: "a person asked",
    Cause.BULK: "a bulk run",
    Cause.JOINER: "a new mailbox",
    Cause.RENEWAL: "renewal",
}
# What the timeline tells from the tables themselves, and better.
TOLD = frozenset(
    {Event.ENROLLMENT_OPENED, Event.CHALLENGE_ACCEPTED, Event.REPLY_QUEUED, Event.REVOCATION_ASKED}
    | {Event.CERTIFICATE_ISSUED, Event.CERTIFICATE_REVOKED}
    | TOLD_BY_DELIVERIES
)
# The steps of an order as the audit trail names them, and what they are for people; None: told by the order itself.
STEPS: Mapping[str, str | None] = {
    "OrderingBegan": None,
    "Moved": "order begun anew",
    "OrderPlaced": None,
    "ChallengeKnown": "waiting for the challenge mail",
    "ChallengeMailAccepted": None,
    "ReplyHandedOver": None,
    "ChallengePosted": None,
    "AuthorizationValid": "authority convinced",
    "NextIdentifier": "authority convinced of one address, the next one's turn",
    "FinalizeSent": None,
    "CertificateReady": None,
    "CertificateIssued": None,
    "Activated": "certificate in use",
    "Rehearsed": "rehearsal done: its certificate counts for nothing",
    "Failed": None,
    "Cancelled": None,
    "Superseded": None,
    "Retired": "certificate out of use",
    "Revoked": None,
    "Expired": None,
}
_DEPARTURES: Mapping[str, tuple[Event, str]] = {
    Departure.SENT: (Event.REPLY_LEFT, "reply taken by the other side"),
    Departure.GONE: (Event.REPLY_LEFT, "reply not in Postfix's queue any more"),
    Departure.DEFERRED: (Event.REPLY_DEFERRED, "reply waits in Postfix's queue"),
    Departure.BOUNCED: (Event.REPLY_BOUNCED, "reply bounced"),
    Departure.UNKNOWN: (Event.REPLY_UNFOLLOWED, "what became of the reply is not known"),
}


def mailbox_timeline(connection: sa.Connection, config: Config, now: datetime, *, address: str) -> Row:
    """Everything about ``address``. ``timeline`` is in order of time; what is ``planned`` comes last."""
    story = story_of(connection, config, now, look_up(connection, config, address))
    known = story.known
    newest, older = story.orders[:1], story.orders[1:]
    by_enrollment = {line.enrollment_id: line for line in story.certificates}
    notes = timeline.noted(connection, known.address, NOTES)
    entries = [*_arrival(known, notes), *(_older(order, by_enrollment.get(order.id)) for order in older[:OLDER])]
    for order in newest:
        mails = timeline.mails(connection, order.id)
        entries += _order(order, mails, by_enrollment.get(order.id), now)
    entries += _revocations(connection, story.certificates)
    entries += delivery_entries(connection, known.address, now, _entry)
    past = {order.id for order in older}
    entries += [
        _note(noted)
        for noted in notes
        if noted.event not in TOLD and not is_told_by(known.sourced, noted) and not _is_past_step(noted, past)
    ]
    if story.renewal is not None and story.renewal.opened_at is None:
        window = "" if story.renewal.window_start is None else ", in the authority's window"
        entries.append(_entry(story.renewal.due_at, "renewal-planned", f"renewal planned{window}", planned=True))
    current = story.current
    return {
        "schema": SCHEMA,
        "at": now.isoformat(),
        "address": known.address,
        "managed": known.member is not None,
        **_person(known),
        "policy": _policy(config, known),
        "certificate": None if current is None else certificate_row(current),
        "why": why_of(config, now, story).as_row(),
        "older_orders_left_out": max(0, len(older) - OLDER),
        "timeline": sorted(entries, key=lambda entry: (bool(entry["planned"]), str(entry["at"]))),
        "keys": _keys(known, current, story.certificates),
    }


def _person(known: Known) -> Row:
    member, sourced = known.member, known.sourced
    return {
        "source": member.source if member else sourced.source if sourced else None,
        "principal": member.principal if member else sourced.principal if sourced else None,
        "person_name": member.person_name if member else None,
        "groups": sorted(member.groups) if member else [],
        "first_seen_at": instant(sourced.first_seen_at) if sourced else None,
        "missing_since": instant(sourced.missing_since) if sourced else None,
        "left_at": instant(sourced.left_at) if sourced else None,
    }


def _policy(config: Config, known: Known) -> Row | None:
    if known.policy is None or known.member is None:
        return None
    group = config.layers[known.domain].group_of(known.member)
    return {
        "mode": known.policy.mode,
        "authorities": list(known.policy.authorities),
        "key": known.policy.certificate.key,
        "group": group,
        "renewal_key": known.policy.renewal.key,
    }


def _entry(
    at: datetime, event: str, text: str, *, queue_id: str | None = None, order: str | None = None, planned: bool = False
) -> Row:
    return {
        "at": at.isoformat(),
        "event": event,
        "queue_id": queue_id,
        "text": text,
        "order": order,
        "planned": planned,
    }


def _arrival(known: Known, notes: Sequence[Noted]) -> Iterator[Row]:
    row = known.sourced
    if row is None:
        return
    if not any(tells_first(row, noted) for noted in notes):
        yield _entry(row.first_seen_at, "first-seen", f"first seen in the source {row.source}")
    if row.missing_since is not None:
        yield _entry(row.missing_since, "missing", f"not in the source {row.source} any more")
    if row.left_at is not None:
        yield _entry(row.left_at, "left", "counted as gone")


def _order(order: Enrollment, mails: Sequence[Mail], line: CertificateLine | None, now: datetime) -> Iterator[Row]:
    def entry(at: datetime, event: str, text: str, queue_id: str | None = None) -> Row:
        return _entry(at, event, text, queue_id=queue_id, order=order.id, planned=at > now)

    yield entry(order.opened_at, "order-opened", f"order opened at {order.authority} (why: {_CAUSES[order.cause]})")
    if order.began_ordering_at is not None:
        yield entry(order.began_ordering_at, "order-begun", "key made, order begun")
    for mail in mails:
        pass_of = f"DKIM pass d={mail.dkim_domain} s={mail.dkim_selector}"
        if mail.smime_signer is not None:
            pass_of = f"S/MIME pass signer={mail.smime_signer}"
        proof = f"challenge mail, {pass_of}, {mail.disposition}"
        yield entry(mail.accepted_at, "challenge-accepted", proof, mail.queue_id)
        if mail.reply_sent_at is not None:
            yield entry(mail.reply_sent_at, "reply-queued", f"reply to {mail.reply_to} queued", mail.reply_queue_id)
            told = _DEPARTURES.get(mail.departure or "")
            if told is not None and mail.departure_at is not None:
                words = f": {mail.departure_words}" if mail.departure_words else ""
                yield entry(mail.departure_at, told[0], f"{told[1]}{words}", mail.reply_queue_id)
        elif mail.reply_error is not None:
            yield entry(mail.accepted_at, "reply-deferred", f"reply not taken: {mail.reply_error}", mail.queue_id)
    if order.challenge_posted_at is not None:
        yield entry(order.challenge_posted_at, "challenge-posted", "authority told that the reply is there")
    if order.finalize_sent_at is not None:
        yield entry(order.finalize_sent_at, "finalize-sent", "certificate request sent")
    if line is not None:
        yield entry(
            line.stored_at, "certificate-issued", f"certificate {line.serial}, valid until {line.not_after:%Y-%m-%d}"
        )
    if order.state not in OPEN_STATES | {State.ACTIVE, State.REVOKED, State.REHEARSED}:
        yield entry(
            order.state_since, order.state.value, ": ".join(filter(None, [order.state.value, order.last_error]))
        )
    elif order.last_error is not None and order.next_attempt_at is not None:
        yield entry(order.next_attempt_at, "next-attempt", f"next attempt, after: {order.last_error}")


def _older(order: Enrollment, line: CertificateLine | None) -> Row:
    text = f"older order at {order.authority} ({_CAUSES[order.cause]}): {order.state.value}"
    if line is not None:
        text += f", certificate {line.serial} until {line.not_after:%Y-%m-%d}"
    elif order.last_error is not None:
        text += f", {order.last_error}"
    return _entry(order.opened_at, "older-order", text, order=order.id)


def _revocations(connection: sa.Connection, certificates: Sequence[CertificateLine]) -> Iterator[Row]:
    serials = {line.id: line.serial for line in certificates}
    for wish in timeline.revocations_of(connection, list(serials)).values():
        serial = serials[wish.certificate_id]
        reason = RevocationReason(wish.reason).name.lower().replace("_", "-")
        yield _entry(wish.asked_at, "revocation-asked", f"revocation of {serial} asked for (reason {reason})")
        if wish.done_at is not None:
            yield _entry(wish.done_at, "certificate-revoked", f"{serial} revoked")
        elif wish.last_error is not None:
            end = "given up" if wish.next_attempt_at is None else "will be tried again"
            yield _entry(wish.asked_at, "revocation-failed", f"{serial} not revoked, {end}: {wish.last_error}")


def _is_past_step(noted: Noted, past: Set[str]) -> bool:
    """A step of an older order, or one that the order's own lines tell."""
    return noted.event in STEPS and (noted.enrollment_id in past or STEPS[noted.event] is None)


def _note(noted: Noted) -> Row:
    return _entry(noted.at, noted.event, STEPS.get(noted.event) or words_of(noted), order=noted.enrollment_id)


def _keys(known: Known, current: CertificateLine | None, certificates: Sequence[CertificateLine]) -> Row:
    """The present person's keys only: a predecessor's are no business of the mailbox any more."""
    mine = [line for line in certificates if known.is_theirs(line.principal)]
    seen: dict[str, Row] = {}
    for line in mine:
        seen.setdefault(
            line.key_id,
            {"algorithm": line.key_algorithm, "created_at": instant(line.key_created_at), "serial": line.serial},
        )
    present = seen.pop(current.key_id, None) if current is not None else None
    return {"current": present, "older": list(seen.values())}
