# SPDX-License-Identifier: GPL-3.0-or-later
"""The enrollment: our wish for one certificate of one mailbox from one authority, and its one order."""

import enum
from dataclasses import dataclass, field
from datetime import datetime

from acme_milter.certificate.usage import KeyUsageKind


class State(enum.StrEnum):
    """Where an enrollment stands. Each comment says who acts next."""

    PLANNED = "planned"  # we: make the mailbox key, then order
    ORDERING = "ordering"  # we: newOrder and the authorization fetch; committed before newOrder goes out
    AWAITING_MAIL = "awaiting-mail"  # the authority: its challenge mail must reach our Postfix
    REPLYING = "replying"  # we: hand the stored reply to Postfix
    REPLIED = "replied"  # we: tell the authority (POST to the challenge) once the reply had time to leave
    VALIDATING = "validating"  # the authority: it reads the reply; we poll
    FINALIZING = "finalizing"  # we: send the CSR, poll the order, fetch the certificate
    ISSUED = "issued"  # we: clean up at the authority, then use the certificate
    ACTIVE = "active"  # nobody, until renewal
    FAILED = "failed"  # nobody: a successor may have been opened
    CANCELLED = "cancelled"  # nobody: an administrator ended it
    SUPERSEDED = "superseded"  # nobody: a newer certificate took its place, or the mailbox is not theirs any more
    REVOKED = "revoked"  # nobody
    EXPIRED = "expired"  # nobody
    REHEARSED = "rehearsed"  # nobody: a staging service's certificate, which is no mailbox's current one


class Cause(enum.StrEnum):
    """Why an enrollment was opened."""

    ASKED = "asked"  # a person asked for this mailbox
    BULK = "bulk"  # a bulk run came to this mailbox
    JOINER = "joiner"  # a source brought the mailbox
    RENEWAL = "renewal"  # the certificate's time had come
    URGENT = "urgent-renewal"  # its authority wants it replaced, or its end is near


BACKGROUND_CAUSES = frozenset({Cause.JOINER, Cause.RENEWAL})
"""Nobody waits for these: they go out at the pace of `limits.background_per_hour`."""

OPEN_STATES = frozenset(
    {
        State.PLANNED,
        State.ORDERING,
        State.AWAITING_MAIL,
        State.REPLYING,
        State.REPLIED,
        State.VALIDATING,
        State.FINALIZING,
        State.ISSUED,
    }
)
"""An enrollment in one of these still has work to do; there is at most one for each (mailbox, authority)."""

CHALLENGED_STATES = frozenset({State.AWAITING_MAIL, State.REPLYING, State.REPLIED, State.VALIDATING})
"""The challenge of the order is known and not decided yet: a challenge mail may be ours."""


@dataclass(frozen=True, slots=True)
class Proof:
    """One address of an order for several, and its authorization.

    Once that was read: its challenge's ``sender`` and URL, and token-part2, sealed and then in base64; or that it was
    ``valid`` from the start, and no mail will come.
    """

    address: str
    url: str
    sender: str | None = None
    challenge_url: str | None = None
    sealed_token: str | None = field(default=None, repr=False)
    valid: bool = False

    @property
    def is_read(self) -> bool:
        """Whether it is known what is to be proven, so that a challenge mail can be told to be this address's."""
        return self.valid or self.challenge_url is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrollment:
    """One row of the store. Times are aware UTC; ``None`` means "not known yet".

    ``token_part2`` is sealed (keys.sealing): the clear token never sits in a row.
    """

    id: str
    address: str
    authority: str
    principal: str
    """Whose certificate it is to be: the source's id for the person, or the address itself."""
    state: State
    version: int
    generation: int
    """How many orders in a row this mailbox has tried without success, this one included (1 for the first)."""
    opened_at: datetime
    state_since: datetime
    next_attempt_at: datetime | None
    attempts: int = 0
    """Failed attempts at the present step, in a row."""
    last_error: str | None = None
    successor_id: str | None = None
    key_id: str | None = None
    began_ordering_at: datetime | None = None
    counted_at: datetime | None = None
    """When its order counts against the authority's budgets: as begun, asked for again, and placed, the latest."""
    order_url: str | None = None
    order_expires_at: datetime | None = None
    authorization_url: str | None = None
    finalize_url: str | None = None
    challenge_url: str | None = None
    challenge_sender: str | None = None
    token_part2: bytes | None = field(default=None, repr=False)
    challenge_posted_at: datetime | None = None
    finalize_sent_at: datetime | None = None
    certificate_url: str | None = None
    certificate_id: str | None = None
    cause: Cause = Cause.ASKED
    replaces_id: str | None = None
    """The stored certificate that this one is to take the place of, if any."""
    bulk_run_id: str | None = None
    usage: KeyUsageKind = KeyUsageKind.DUAL
    account_id: str | None = None
    """The account with which it is ordered: what the reply says is computed with that account's key."""
    aliases: tuple[str, ...] = ()
    """Further addresses of the order, fixed when it is begun."""
    proving: str | None = None
    """Of these, the one whose authorization is at hand; None: the mailbox itself."""
    proofs: tuple[Proof, ...] = ()
    """Where there are aliases: what the order has to prove, in the order in which it is proven."""

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES

    @property
    def at_hand(self) -> str:
        """The address that is being proven: to it the challenge mail comes, from it the reply goes."""
        return self.proving or self.address

    @property
    def place_at_hand(self) -> int:
        """Where among ``proofs`` the authorization at hand is."""
        return [proof.url for proof in self.proofs].index(self.authorization_url or "")

    @property
    def authorization_urls(self) -> tuple[str, ...]:
        """Every authorization of the order that is known."""
        alone = () if self.authorization_url is None else (self.authorization_url,)
        return tuple(proof.url for proof in self.proofs) or alone
