# SPDX-License-Identifier: GPL-3.0-or-later
"""Every way an enrollment can move, as one table. Nothing else in the program changes ``Enrollment.state``.

An event carries, under the enrollment's own field names, the facts that it adds. ``advance`` looks up the target state
and writes those facts; it is pure, so a step can be tried, compared-and-swapped, and thrown away.
"""

import dataclasses
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from acme_milter.enrollment.model import CHALLENGED_STATES, OPEN_STATES, Enrollment, Proof, State


class ImpossibleTransition(Exception):
    """The table has no such move: the event came too late, twice, or by a mistake of ours."""

    def __init__(self, state: State, event: "Event") -> None:
        super().__init__(f"{type(event).__name__} cannot happen in state {state}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events. ``next_attempt_at`` is when the enrollment is due again; ``None``: at once."""

    next_attempt_at: datetime | None = None
    ends: ClassVar[bool] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderingBegan(Event):
    """The mailbox key is stored and newOrder may go out. Committed first: the challenge mail can arrive inside it."""

    key_id: str
    began_ordering_at: datetime
    account_id: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved(Event):
    """It is to be ordered from another authority. No order is known at the one before, and what was made for it is
    void: a challenge mail that it may still send is nobody's.
    """

    authority: str
    key_id: str | None = None
    began_ordering_at: datetime | None = None
    counted_at: datetime | None = None
    account_id: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderPlaced(Event):
    """RFC 8555 §7.4: the authority answered newOrder."""

    order_url: str
    order_expires_at: datetime | None
    authorization_url: str
    finalize_url: str
    proofs: tuple[Proof, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationRead(Event):
    """RFC 8823 §3 step 3, of an order for several addresses: one more of them is known, before anything is proven.

    An authority may mail all of its challenges at once, and each has to be told from a stranger's when it comes.
    """

    proving: str | None = None
    proofs: tuple[Proof, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeKnown(Event):
    """RFC 8823 §3 step 3: the authorization named the challenge, its sender and token-part2 (sealed here).

    And, of an order for several addresses, for which of them it is.
    """

    challenge_url: str
    challenge_sender: str
    token_part2: bytes = field(repr=False)
    proving: str | None = None
    proofs: tuple[Proof, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationValid(Event):
    """RFC 8555 §7.1.6: the authority is convinced; also when it was so from the start and no mail will come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextIdentifier(Event):
    """As `AuthorizationValid`, of an order for several addresses with others left: the next one's turn has come."""

    authorization_url: str
    proving: str | None = None
    proofs: tuple[Proof, ...] = ()
    challenge_url: None = None
    challenge_sender: None = None
    token_part2: None = None
    challenge_posted_at: None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeMailAccepted(Event):
    """The gate let a challenge mail in; its reply lies in the outbox, in the same transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeMailKept(Event):
    """As `ChallengeMailAccepted`, of an address whose turn is still to come: its reply lies in the outbox until then.

    Nothing moves; whoever takes a step at the same time is to look again, and finds it.
    """

    last_error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyHandedOver(Event):
    """Postfix took the reply and named its queue id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengePosted(Event):
    """RFC 8823 §3 step 7: the challenge URL got its ``{}``."""

    challenge_posted_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalizeSent(Event):
    """RFC 8555 §7.4: the CSR is at the authority, which still works on it."""

    finalize_sent_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateReady(Event):
    """RFC 8555 §7.4.2: the order is valid and says where its certificate is."""

    certificate_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateIssued(Event):
    """The certificate was fetched, passed every check, and is stored."""

    certificate_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Activated(Event):
    """The authority's leftovers are cleaned up; the certificate is the mailbox's current one."""

    ends: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred(Event):
    """The step could not be done now and will be tried again at ``next_attempt_at``.

    ``last_error`` is ``None`` when nothing went wrong and we only wait (polling).
    """

    last_error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    """This order is over. ``successor_id`` names the enrollment that tries again, if one does."""

    last_error: str
    successor_id: str | None = None
    ends: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled(Event):
    """An administrator, or a change of policy, ended it."""

    last_error: str
    ends: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed(Event):
    """As `Activated`, of what a staging service issued: the way works, and the certificate is nobody's."""

    ends: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Superseded(Event):
    """A newer certificate of the same mailbox and authority is active."""

    ends: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Retired(Event):
    """The mailbox has left, or is another person's: the certificate may last, but nobody's current one is it."""

    ends: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked(Event):
    """RFC 8555 §7.6: the certificate was revoked."""

    ends: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired(Event):
    """The certificate's notAfter has passed."""

    ends: ClassVar[bool] = True


TRANSITIONS: dict[tuple[State, type[Event]], State] = {
    (State.PLANNED, OrderingBegan): State.ORDERING,
    (State.PLANNED, Moved): State.PLANNED,
    (State.ORDERING, Moved): State.PLANNED,
    (State.ORDERING, OrderPlaced): State.ORDERING,
    (State.ORDERING, AuthorizationRead): State.ORDERING,
    (State.ORDERING, ChallengeKnown): State.AWAITING_MAIL,
    # Some authorities mail only after the POST (RFC 8823 leaves it open; the S/MIME BR 3.2.2.4 wording suggests it).
    (State.AWAITING_MAIL, ChallengePosted): State.AWAITING_MAIL,
    (State.AWAITING_MAIL, ChallengeMailAccepted): State.REPLYING,
    # A second, different challenge of the same order is answered too, and moves nothing.
    (State.REPLYING, ChallengeMailAccepted): State.REPLYING,
    (State.REPLIED, ChallengeMailAccepted): State.REPLIED,
    (State.VALIDATING, ChallengeMailAccepted): State.VALIDATING,
    **{(state, ChallengeMailKept): state for state in (State.ORDERING, *sorted(CHALLENGED_STATES))},
    (State.REPLYING, ReplyHandedOver): State.REPLIED,
    (State.REPLIED, ReplyHandedOver): State.REPLIED,
    (State.VALIDATING, ReplyHandedOver): State.VALIDATING,
    (State.REPLIED, ChallengePosted): State.VALIDATING,
    # RFC 8555 §7.1.6: states may be skipped between two looks.
    (State.ORDERING, AuthorizationValid): State.FINALIZING,
    (State.AWAITING_MAIL, AuthorizationValid): State.FINALIZING,
    (State.REPLYING, AuthorizationValid): State.FINALIZING,
    (State.REPLIED, AuthorizationValid): State.FINALIZING,
    (State.VALIDATING, AuthorizationValid): State.FINALIZING,
    # One address after the other; as above, several of these may have passed unseen.
    (State.ORDERING, NextIdentifier): State.ORDERING,
    (State.AWAITING_MAIL, NextIdentifier): State.ORDERING,
    (State.REPLYING, NextIdentifier): State.ORDERING,
    (State.REPLIED, NextIdentifier): State.ORDERING,
    (State.VALIDATING, NextIdentifier): State.ORDERING,
    (State.FINALIZING, FinalizeSent): State.FINALIZING,
    (State.FINALIZING, CertificateReady): State.FINALIZING,
    (State.FINALIZING, CertificateIssued): State.ISSUED,
    (State.ISSUED, Activated): State.ACTIVE,
    (State.ISSUED, Rehearsed): State.REHEARSED,
    (State.ACTIVE, Superseded): State.SUPERSEDED,
    (State.ACTIVE, Retired): State.SUPERSEDED,
    (State.ACTIVE, Revoked): State.REVOKED,
    (State.ACTIVE, Expired): State.EXPIRED,
    (State.SUPERSEDED, Revoked): State.REVOKED,
    (State.REHEARSED, Revoked): State.REVOKED,
    **{(state, Deferred): state for state in OPEN_STATES},
    **{(state, Failed): State.FAILED for state in OPEN_STATES},
    **{(state, Cancelled): State.CANCELLED for state in OPEN_STATES},
}


def advance(enrollment: Enrollment, event: Event, now: datetime) -> Enrollment:
    """Return the enrollment as it is after ``event``, one version on.

    Raises ImpossibleTransition when the table has no such move.
    """
    target = TRANSITIONS.get((enrollment.state, type(event)))
    if target is None:
        raise ImpossibleTransition(enrollment.state, event)
    facts = {f.name: getattr(event, f.name) for f in dataclasses.fields(event)}
    facts.setdefault("last_error", None)
    if isinstance(event, OrderingBegan | OrderPlaced):
        facts["counted_at"] = now
    if event.ends:
        facts["next_attempt_at"] = None
    elif facts["next_attempt_at"] is None:
        facts["next_attempt_at"] = now
    stumbled = isinstance(event, Deferred) and event.last_error is not None
    attempts = enrollment.attempts if isinstance(event, ChallengeMailKept) else 0
    return dataclasses.replace(
        enrollment,
        state=target,
        version=enrollment.version + 1,
        state_since=enrollment.state_since if target is enrollment.state else now,
        attempts=enrollment.attempts + 1 if stumbled else attempts,
        **facts,
    )


def diagram() -> str:
    """Return the table as a Mermaid state diagram, in the table's order (docs/architecture.md shows it)."""
    lines = ["stateDiagram-v2", "    [*] --> planned"]
    everywhere = {Deferred, Failed, Cancelled, ChallengeMailKept}
    for (source, event), target in TRANSITIONS.items():
        if event not in everywhere:
            lines.append(f"    {_node(source)} --> {_node(target)}: {event.__name__}")
    lines.append("    note right of planned: Deferred keeps, Failed and Cancelled end, every open state")
    lines.append("    note right of ordering: ChallengeMailKept keeps it, and every state up to validating")
    return "\n".join(lines) + "\n"


def _node(state: State) -> str:
    return state.value.replace("-", "_")
