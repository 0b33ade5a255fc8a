# SPDX-License-Identifier: GPL-3.0-or-later
"""The view `why`: why a mailbox has a certificate or has none, in a paragraph, and what to run next."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.config.schema import Config
from acme_milter.config.sources import LIST
from acme_milter.enrollment.lost_account import remedy_in
from acme_milter.enrollment.model import BACKGROUND_CAUSES, Enrollment, State
from acme_milter.mailboxes.asking import ask_about
from acme_milter.mailboxes.record import ONCE_ASKED_FOR, CameAs
from acme_milter.mailboxes.verification import UNKNOWN_MAILBOX, Deliverability, Verdict
from acme_milter.report.aliases import in_their_certificate, on_aliases, on_delivery_of_aliases
from acme_milter.report.delivery_list import still_there
from acme_milter.report.mailbox_story import Story, story_of
from acme_milter.report.member import Known, look_up
from acme_milter.report.rows import Row
from acme_milter.store import joiners
from acme_milter.store.holds import Hold
from acme_milter.store.timeline import CertificateLine

SCHEMA = "acme-milter/mailbox-why/1"

PATIENCE = 2.0
"""Seconds for Postfix's answer: a person waits, and the command for five at most."""


@dataclass(frozen=True, slots=True)
class Why:
    """``word`` is for scripts, ``text`` a paragraph, ``command`` what to run next, where there is something to do."""

    word: str
    text: str
    command: str | None = None

    def as_row(self) -> Row:
        return {"word": self.word, "text": self.text, "command": self.command}


def why(connection: sa.Connection, config: Config, now: datetime, *, address: str) -> Row:
    """The view: ``word``, ``text`` and ``command`` for one address."""
    story = story_of(connection, config, now, look_up(connection, config, address))
    reason, verdict = why_of(config, now, story), _verdict(config, story.known)
    if verdict is not None:
        reason = dataclasses.replace(reason, text=reason.text + _on_delivery(reason, verdict, story))
    aliases = in_their_certificate(config, story.known)
    if verdict is not None and aliases:
        more = on_delivery_of_aliases(ask_about(config, aliases, PATIENCE))
        reason = dataclasses.replace(reason, text=reason.text + more)
    reason = dataclasses.replace(reason, text=reason.text + still_there(connection, story.known.address))
    return {
        "schema": SCHEMA,
        "address": story.known.address,
        "has_certificate": story.current is not None and story.lacks is None,
        **reason.as_row(),
        "delivery": None if verdict is None else {"deliverability": verdict.deliverability, "why": verdict.why},
    }


def _verdict(config: Config, known: Known) -> Verdict | None:
    """What Postfix says before an order; what the configuration lists by name it is not asked about."""
    if known.member is None or known.member.source == LIST:
        return None
    return ask_about(config, [known.address], PATIENCE).get(known.address)


def _on_delivery(reason: Why, verdict: Verdict, story: Story) -> str:
    match verdict.deliverability:
        case Deliverability.UNKNOWN if verdict.why in reason.text:
            return " That is still so."
        case Deliverability.UNKNOWN:
            return f" Nothing can be ordered for it: {verdict.why}."
        case Deliverability.UNDECIDED:
            return f" Whether Postfix knows it could not be found out just now: {verdict.why}."
        case Deliverability.UNCHECKED if story.current is None:
            return f" Nobody here can tell whether mail for it arrives: {verdict.why}."
        case Deliverability.KNOWN if UNKNOWN_MAILBOX in reason.text:
            return " By now Postfix knows it."
        case _:
            return ""


def why_of(config: Config, now: datetime, story: Story) -> Why:
    """The first reason that applies, of those that explain the most."""
    if story.known.member is None:
        return _not_managed(config, story)
    reason = _why_of_mailbox(now, story)
    return dataclasses.replace(reason, text=reason.text + on_aliases(config, story.known))


def _why_of_mailbox(now: datetime, story: Story) -> Why:
    known = story.known
    if story.open_order is not None:
        return _under_way(now, story, story.open_order)
    if story.current is None:
        return _without_order(known, story)
    return _has_half(known, story, story.lacks) if story.lacks else _has(known, story, story.current)


def _not_managed(config: Config, story: Story) -> Why:
    known, sourced = story.known, story.known.sourced
    alias = config.alias(known.address)
    if alias is not None:
        text = f"{known.address} is an alias of {alias.alias_of}, in whose certificate it is."
        return Why("alias", text, f"acme-milter mailbox why {alias.alias_of}")
    still = (
        "" if story.current is None else f" It still has a certificate, valid until {story.current.not_after:%Y-%m-%d}."
    )
    if known.domain not in config.domains:
        command = f"add domains.{known.domain} to {config.path}, then: acme-milter check"
        return Why(
            "unknown-domain", f"{known.address} is not managed: no domain {known.domain} is configured.{still}", command
        )
    if sourced is None:
        command = f"acme-milter mailbox list --domain {known.domain}"
        sources = config.domains[known.domain].source
        place = f"the source {' or '.join(sources)}" if sources else f"domains.{known.domain}.mailboxes.list"
        reason = config.exclusion_of(known.address, sources[0], frozenset()) if sources else None
        if reason:  # whom a source lists and nobody wants has no row
            text = f"{known.address} is not managed: whether {place} has it or not, it {reason}.{still}"
            return Why("excluded", text, f"acme-milter mailbox sync --source {sources[0]} --dry-run")
        return Why("unknown", f"{known.address} is not managed: {place} does not have it.{still}", command)
    if sourced.left_at is not None:
        text = f"{known.address} is not managed: the source {sourced.source} does not have it since"
        since = sourced.missing_since or sourced.left_at
        return Why(
            "left", f"{text} {since:%Y-%m-%d}, and it counts as gone since {sourced.left_at:%Y-%m-%d}.{still}", None
        )
    reason = config.exclusion_of(known.address, sourced.source, sourced.groups) or "is excluded"
    text = f"{known.address} is in the source {sourced.source}, but not managed: it {reason}.{still}"
    return Why("excluded", text, f"acme-milter mailbox sync --source {sourced.source} --dry-run")


def _under_way(now: datetime, story: Story, order: Enrollment) -> Why:
    address, authority = story.known.address, order.authority
    before = (
        ""
        if story.current is None
        else f" The certificate before it is valid until {story.current.not_after:%Y-%m-%d}."
    )
    if story.pause is not None and story.pause.authority == authority and order.state is State.PLANNED:
        until = "a person resumes it" if story.pause.until is None else f"{story.pause.until:%Y-%m-%d %H:%M} UTC"
        text = f"The order for {address} waits: {authority} is paused until {until} ({story.pause.reason}).{before}"
        return Why("authority-paused", text, f"acme-milter authority resume {authority}")
    if story.exchange is not None:
        text = (
            f"The order for {address} is {order.state.value} and waits until the account at {authority} has its next"
            f" key, {story.exchange.in_words()}.{before}"
        )
        return Why("key-exchange", text, story.exchange.command())
    health = story.health.get(authority)
    if health is not None and health.open_since is not None and order.state is State.PLANNED:
        text = (
            f"The order for {address} is planned, and {authority} is broken since"
            f" {health.open_since:%Y-%m-%d %H:%M} UTC: {health.last_error or order.last_error}.{before}"
        )
        return Why("authority-broken", text, remedy_in(health.last_error) or f"acme-milter authority show {authority}")
    if order.last_error is not None:
        again = order.next_attempt_at or now
        text = (
            f"The order for {address} at {authority} is {order.state.value} and meets a difficulty: {order.last_error}."
            f" The next attempt is at {again:%Y-%m-%d %H:%M} UTC.{before}"
        )
        return Why("trying", text, remedy_in(order.last_error) or f"acme-milter mailbox show {address}")
    observed = story.known.policy is not None and story.known.policy.mode == "observe"
    if observed and order.state is State.AWAITING_MAIL:
        text = f"{address} is in mode: observe: its challenge is not answered, so no certificate comes.{before}"
        return Why("observed", text, f"set mode: enforce for {story.known.domain}, then: acme-milter check")
    if order.state is State.PLANNED:
        pace = "the background pace" if order.cause in BACKGROUND_CAUSES else f"room at {authority}"
        return Why("waiting", f"The order for {address} is planned and waits for {pace}.{before}", "acme-milter status")
    since = f"{order.opened_at:%Y-%m-%d %H:%M} UTC ({order.state.value})"
    text = f"An order for {address} at {authority} is under way since {since}.{before}"
    return Why("under-way", text, f"acme-milter mailbox show {address}")


def _without_order(known: Known, story: Story) -> Why:
    address = known.address
    # What a predecessor at this address had explains nothing about the person who has it now.
    mine = (order for order in story.in_earnest if known.is_theirs(order.principal))
    last = next(mine, None)
    issue = f"acme-milter cert issue {address}"
    if known.sourced is not None and known.sourced.missing_since is not None:
        since = known.sourced.missing_since
        text = (
            f"{address} has no certificate: the source {known.sourced.source} does not have it since {since:%Y-%m-%d}."
        )
        return Why("missing", text, f"acme-milter mailbox sync --source {known.sourced.source} --dry-run")
    held = _hold_of(known, story.holds)
    if held is not None:
        text = f"{address} has no certificate: {held.name} is held: {held.reason}."
        return Why("held", text, f"acme-milter hold release {held.name}")
    if last is None:
        return _never_ordered(known, issue)
    if last.state is State.FAILED:
        end = f"{last.state_since:%Y-%m-%d %H:%M} UTC: {last.last_error}"
        text = f"{address} has no certificate: the last order failed at {end}.{_again(known, last)}"
        return Why("failed", text, issue)
    ends = {State.REVOKED: "was revoked", State.EXPIRED: "expired", State.SUPERSEDED: "was replaced"}
    end = ends.get(last.state, f"is {last.state.value}")
    because = f" ({last.last_error})" if last.last_error else ""
    which = "the last order" if last.state is State.CANCELLED else "the last one"
    text = f"{address} has no certificate: {which} {end} on {last.state_since:%Y-%m-%d}{because}."
    return Why(last.state.value, text, issue)


def _again(known: Known, last: Enrollment) -> str:
    row, policy = known.sourced, known.policy
    if row is None or policy is None or policy.mode != "enforce" or policy.joiners != "automatic":
        return ""
    if not joiners.is_opened_again(last, row, joiner=CameAs.JOINER, others=ONCE_ASKED_FOR):
        return ""
    at = last.state_since + joiners.AGAIN_AFTER
    return f" The next one is opened by itself after {at:%Y-%m-%d %H:%M} UTC, as long as {row.source} lists it."


def _hold_of(known: Known, waiting: Sequence[Hold]) -> Hold | None:
    row = known.sourced
    if row is None or row.came_as != CameAs.WAITING:
        return None
    return next((hold for hold in waiting if hold.name == f"new:{row.source}"), None)


def _never_ordered(known: Known, issue: str) -> Why:
    assert known.policy is not None
    observed = " Its mode: observe would bring none." if known.policy.mode == "observe" else ""
    if (
        known.sourced is not None
        and known.sourced.came_as == CameAs.JOINER
        and known.policy.joiners == "automatic"
        and not observed
    ):
        text = f"{known.address} is new and waits for its turn in the background pace."
        return Why("waiting", text, issue)
    asked = (
        " New mailboxes of its domain are not ordered by themselves (joiners: ask)."
        if known.policy.joiners == "ask"
        else ""
    )
    text = f"{known.address} has no certificate: none was ever ordered.{asked}{observed}"
    return Why("never-ordered", text, issue)


def _has_half(known: Known, story: Story, lacks: KeyUsageKind) -> Why:
    """The order of the second of two certificates came to nothing."""
    has = KeyUsageKind.SIGN if lacks is KeyUsageKind.ENCRYPT else KeyUsageKind.ENCRYPT
    mine = (order for order in story.in_earnest if known.is_theirs(order.principal))
    last = next((order for order in mine if order.usage is lacks), None)
    because = "" if last is None or not last.last_error else f": {last.last_error}"
    text = f"{known.address} has a certificate to {has}, but none to {lacks}{because}."
    return Why("half", text, f"acme-milter cert issue {known.address}")


def _has(known: Known, story: Story, current: CertificateLine) -> Why:
    text = f"{known.address} has a certificate of {current.authority}, valid until {current.not_after:%Y-%m-%d}."
    if known.sourced is not None and known.sourced.missing_since is not None:
        since = known.sourced.missing_since
        text += (
            f" It is not renewed: the source {known.sourced.source} does not have the mailbox since {since:%Y-%m-%d}."
        )
        return Why("missing", text, f"acme-milter mailbox sync --source {known.sourced.source} --dry-run")
    held = next((hold for hold in story.holds if hold.name == f"renewals:{current.authority}"), None)
    if held is not None:
        text += f" Renewals are held: {held.reason}."
        return Why("renewals-held", text, f"acme-milter hold release {held.name}")
    last = next(iter(story.in_earnest), None)
    if last is not None and last.state is State.FAILED:
        text += f" Its renewal failed at {last.state_since:%Y-%m-%d %H:%M} UTC: {last.last_error}."
        return Why("renewal-failed", text, f"acme-milter cert renew {known.address}")
    if story.renewal is not None:
        text += f" Its renewal is planned for {story.renewal.due_at:%Y-%m-%d}."
    return Why("has-certificate", text, None)
