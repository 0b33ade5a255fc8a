# SPDX-License-Identifier: GPL-3.0-or-later
"""An order for several addresses: which of a mailbox's aliases are in it, and how one after the other is proven.

An enrollment has one challenge at a time: so the next address is proven when the authority is convinced of the one
before. What all of them are to prove is read first, since their challenge mails may come at once and in any order.
"""

import dataclasses
import logging
from base64 import b64decode
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from acme_milter.acme.authorization import Authorization
from acme_milter.acme.order import Order
from acme_milter.config.policy import Policy
from acme_milter.config.schema import Config
from acme_milter.config.sources import LIST
from acme_milter.enrollment.model import CHALLENGED_STATES, Enrollment, Proof, State
from acme_milter.enrollment.state_machine import AuthorizationRead, AuthorizationValid, Deferred, NextIdentifier
from acme_milter.eventlog import Event, log_event
from acme_milter.mailboxes.verification import Deliverability
from acme_milter.store import enrollments
from acme_milter.worker.caa import Permission
from acme_milter.worker.order_desk import OrderDesk
from acme_milter.worker.step import OrderDied, Step

SOON = timedelta(seconds=2)
LATER = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Identifiers:
    """Holds no state of its own."""

    desk: OrderDesk

    def choose(self, enrollment: Enrollment, policy: Policy) -> tuple[str, ...] | Step:
        """The aliases that are ordered with the mailbox; a step to save where that cannot be known just now.

        What cannot be in the order is left out and said: the mailbox is not to wait for its aliases.
        """
        config = self.desk.config()
        member = config.member(enrollment.address)
        if member is None or policy.certificate.aliases != "same_certificate":
            return self._unless_in_the_way(enrollment, ())
        choice = config.aliases_of(member)
        kept: list[str] = []
        left_out = list(choice.left_out)
        for alias in choice.kept:
            why = None if member.source == LIST else self._unknown_to_postfix(alias)
            why = why or self._refused_by_caa(enrollment, alias)
            if isinstance(why, Step):
                return why
            if why is None:
                kept.append(alias)
            else:
                left_out.append((alias, why))
        most = self.desk.authority(enrollment).limits.identifiers - 1
        why = f"{enrollment.authority} takes {most + 1} in an order (limits.identifiers)"
        left_out += [(alias, why) for alias in kept[most:]]
        found = self._unless_in_the_way(enrollment, tuple(kept[:most]))
        for alias, why in left_out if not isinstance(found, Step) else ():
            log_event(
                Event.ALIAS_LEFT_OUT, level=logging.INFO, rcpt=enrollment.address, order=enrollment.id,
                alias=alias, reason=why,
            )  # fmt: skip
        return found

    def _unless_in_the_way(self, enrollment: Enrollment, aliases: tuple[str, ...]) -> tuple[str, ...] | Step:
        with self.desk.database.read() as connection:
            taken = enrollments.address_in_another_order(connection, enrollment, aliases)
        if taken is None:
            return aliases
        why = f"{taken} is in another order of {enrollment.authority} that is open"
        return Step(Deferred(next_attempt_at=self.desk.clock() + LATER, last_error=why))

    def reserve(self, connection: sa.Connection, enrollment: Enrollment, aliases: tuple[str, ...]) -> None:
        """In the transaction that begins the order: at most one open order for an address at an authority. Raises
        StaleVersion when another order has just begun with one of them.
        """
        if enrollments.address_in_another_order(connection, enrollment, aliases) is not None:
            raise enrollments.StaleVersion(enrollment.id)

    def _unknown_to_postfix(self, alias: str) -> str | Step | None:
        verdict = self.desk.mail_arrives(alias)
        if verdict is None:
            return Step(Deferred(next_attempt_at=self.desk.clock() + SOON))
        match verdict.deliverability:
            case Deliverability.UNKNOWN:
                return verdict.why
            case Deliverability.UNDECIDED:
                why = f"whether Postfix knows the alias {alias} could not be found out: {verdict.why}"
                return Step(Deferred(next_attempt_at=self.desk.clock() + LATER, last_error=why))
            case _:
                return None

    def _refused_by_caa(self, enrollment: Enrollment, alias: str) -> str | Step | None:
        """RFC 9495, for an alias in another domain; the mailbox's own is asked about for the order as a whole."""
        authority, domain = self.desk.authority(enrollment), alias.rpartition("@")[2]
        if authority.caa == "ignore" or domain == enrollment.address.rpartition("@")[2]:
            return None
        known_as = self.desk.authorities.network(enrollment.authority).directory().meta.caa_identities
        answer = self.desk.may_issue(enrollment.authority, authority.caa_domains or known_as, domain)
        match answer.permission:
            case Permission.PENDING:
                return Step(Deferred(next_attempt_at=self.desk.clock() + SOON))
            case Permission.UNCLEAR:
                return Step(Deferred(next_attempt_at=self.desk.clock() + LATER, last_error=answer.text))
            case Permission.REFUSED:
                return answer.text
            case Permission.GIVEN:
                return None


def has_changed_hands(config: Config, enrollment: Enrollment, address: str) -> bool:
    """Whether an address of an order for several is an alias of its mailbox no more: what is proven of it now would be
    proven for somebody else than whose it is.
    """
    if address.lower() == enrollment.address.lower():
        return False
    alias = config.alias(address)
    return alias is None or (alias.alias_of or "").lower() != enrollment.address.lower()


def proofs_of(enrollment: Enrollment, order: Order) -> tuple[Proof, ...]:
    """The authorizations of an order that has just been placed; none where it is for the mailbox alone.

    RFC 8555 §7.1.3 gives them in no order: which is whose is known for certain when each is read. Raises OrderDied.
    """
    wanted = (enrollment.address, *enrollment.aliases)
    if len(order.authorizations) != len(wanted):
        number = "one" if len(wanted) == 1 else str(len(wanted))
        raise OrderDied(f"the order has {len(order.authorizations)} authorizations instead of {number}", again=False)
    if not enrollment.aliases:
        return ()
    return tuple(map(Proof, wanted, order.authorizations))


def place_to_read(enrollment: Enrollment) -> int | None:
    """Where among the proofs the first authorization is that is still to be read; None when all are known.

    They are read before anything is proven: an authority may mail all challenges at once, and a mail can be told to be
    ours, and kept for its address's turn, only when its authorization was read.
    """
    if not enrollment.aliases:
        return None
    left = enumerate(enrollment.proofs[enrollment.place_at_hand :], start=enrollment.place_at_hand)
    return next((place for place, proof in left if not proof.is_read), None)


def told_apart(enrollment: Enrollment, place: int, found: Authorization) -> Enrollment:
    """The enrollment with the address at this place being the one that the authorization is for. Raises OrderDied."""
    named = found.identifier.value.casefold()
    unread = (at for at, proof in enumerate(enrollment.proofs) if at >= place and not proof.is_read)
    other = next((at for at in unread if enrollment.proofs[at].address.casefold() == named), None)
    if other is None:
        raise OrderDied("an authorization of the order is for an address that was not asked for", again=False)
    proofs = list(enrollment.proofs)
    mine, theirs = proofs[place], proofs[other]
    proofs[other] = dataclasses.replace(theirs, address=mine.address)
    proofs[place] = dataclasses.replace(mine, address=theirs.address)
    at_hand = proofs[enrollment.place_at_hand].address
    return dataclasses.replace(enrollment, proofs=tuple(proofs), proving=_name(enrollment, at_hand))


def with_proof(enrollment: Enrollment, place: int, **facts: Any) -> Step:
    """What has been read of the authorization at this place, to be saved: fields of `Proof`."""
    proofs = list(enrollment.proofs)
    proofs[place] = dataclasses.replace(proofs[place], **facts)
    return Step(AuthorizationRead(proving=enrollment.proving, proofs=tuple(proofs)))


def in_turn(enrollment: Enrollment, mailbox: str) -> Enrollment | None:
    """The enrollment as it is when this address's turn has come: itself, where that is so already.

    None when no challenge mail of it is awaited, for that address: its authorization has not been read yet, or there is
    nothing to prove any more.
    """
    folded = mailbox.lower()
    if enrollment.state in CHALLENGED_STATES and (not enrollment.aliases or folded == enrollment.at_hand.lower()):
        return enrollment
    if not enrollment.proofs or enrollment.state not in CHALLENGED_STATES | {State.ORDERING}:
        return None
    for proof in enrollment.proofs[enrollment.place_at_hand :]:
        if proof.address.lower() == folded and proof.sealed_token is not None:
            return dataclasses.replace(
                enrollment,
                state=State.AWAITING_MAIL,
                authorization_url=proof.url,
                proving=_name(enrollment, proof.address),
                challenge_url=proof.challenge_url,
                challenge_sender=proof.sender,
                token_part2=b64decode(proof.sealed_token),
                challenge_posted_at=None,
            )
    return None


def standing_of(enrollment: Enrollment, mailbox: str) -> tuple[State, str | None]:
    """How an address of an order for several stands for which `in_turn` has nothing, and who its challenge mail was
    from, where that is known.
    """
    folded = mailbox.lower()
    places = [at for at, proof in enumerate(enrollment.proofs) if proof.address.lower() == folded]
    if not places:
        return State.ORDERING if enrollment.is_open else enrollment.state, None
    proof, past = enrollment.proofs[places[0]], places[0] < enrollment.place_at_hand
    sender = enrollment.challenge_sender if folded == enrollment.at_hand.lower() else None
    if not enrollment.is_open:
        return enrollment.state, proof.sender or sender
    if past or proof.valid or enrollment.state not in CHALLENGED_STATES | {State.ORDERING}:
        return State.FINALIZING, proof.sender or sender
    return State.ORDERING, None


def proven(enrollment: Enrollment) -> Step:
    """What follows when the authority is convinced of the address at hand: the next one, or the end of it."""
    if not enrollment.aliases or enrollment.place_at_hand == len(enrollment.proofs) - 1:
        return Step(AuthorizationValid())
    place = enrollment.place_at_hand
    proofs = list(enrollment.proofs)
    proofs[place] = dataclasses.replace(proofs[place], sender=enrollment.challenge_sender)
    following = proofs[place + 1]
    return Step(
        NextIdentifier(
            authorization_url=following.url, proving=_name(enrollment, following.address), proofs=tuple(proofs)
        )
    )


def _name(enrollment: Enrollment, address: str) -> str | None:
    return None if address == enrollment.address else address
