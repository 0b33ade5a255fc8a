# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading what an order has to prove (RFC 8823 §3 step 3): token-part2 and the sender of the challenge mail to come."""

import dataclasses
from base64 import b64decode, b64encode
from dataclasses import dataclass
from datetime import timedelta

from acme_milter.acme.authorization import Authorization
from acme_milter.enrollment.model import Enrollment
from acme_milter.enrollment.state_machine import ChallengeKnown
from acme_milter.protocol.mailbox import InvalidMailbox, Mailbox
from acme_milter.store import outbox
from acme_milter.worker.identifiers import place_to_read, proven, told_apart, with_proof
from acme_milter.worker.order_desk import OrderDesk
from acme_milter.worker.reply_fate import is_at_hand
from acme_milter.worker.step import OrderDied, Step


@dataclass(frozen=True, slots=True)
class _Challenge:
    """``token_part2`` is sealed."""

    url: str
    sender: str
    token_part2: bytes = dataclasses.field(repr=False)


@dataclass(frozen=True, slots=True)
class Reading:
    """Each call is one step, and at most one ACME request."""

    desk: OrderDesk

    def read(self, enrollment: Enrollment) -> Step:
        """The authorization at hand; of an order for several addresses first, one a step, all that are left.

        Whose turn comes later is read once more then: the authority may have ended it meanwhile, or be convinced.
        """
        place = place_to_read(enrollment)
        if place is not None:
            return self._read_ahead(enrollment, place)
        proof = enrollment.proofs[enrollment.place_at_hand] if enrollment.aliases else None
        if proof is not None and proof.valid:
            return proven(enrollment)
        if proof is not None and enrollment.place_at_hand == 0:
            assert proof.challenge_url is not None  # it was read,
            assert proof.sender is not None
            assert proof.sealed_token is not None  # and all of it was stored
            return self._known(enrollment, _Challenge(proof.challenge_url, proof.sender, b64decode(proof.sealed_token)))
        found = self.desk.authorization(enrollment)
        if found.status == "valid":  # RFC 8555 §7.4: nothing to prove, so no mail will come
            return proven(enrollment)
        return self._known(enrollment, self._challenge_of(enrollment, found))

    def _read_ahead(self, enrollment: Enrollment, place: int) -> Step:
        url = enrollment.proofs[place].url
        found = self.desk.authorization(dataclasses.replace(enrollment, authorization_url=url))
        enrollment = told_apart(enrollment, place, found)
        if found.status == "valid":
            return with_proof(enrollment, place, valid=True)
        challenge = self._challenge_of(enrollment, found)
        sealed = b64encode(challenge.token_part2).decode("ascii")
        return with_proof(enrollment, place, challenge_url=challenge.url, sender=challenge.sender, sealed_token=sealed)

    def _challenge_of(self, enrollment: Enrollment, found: Authorization) -> _Challenge:
        challenge = found.challenge
        if challenge is None:
            raise OrderDied("the authority offers no email-reply-00 challenge for this address", again=False)
        try:
            sender = Mailbox.parse(challenge.sender, allow_utf8=True)
        except InvalidMailbox as flaw:  # no mail's From could ever equal it (RFC 8823 §3.1 item 2)
            raise OrderDied(f"the challenge's from is no mail address: {flaw}", again=False) from None
        token_part2 = self.desk.vault.seal_token(enrollment.id, challenge.token_part2)
        return _Challenge(challenge.url, str(sender), token_part2)

    def _known(self, enrollment: Enrollment, challenge: _Challenge) -> Step:
        authority = self.desk.authority(enrollment)
        look_again = {
            "reply-first": authority.challenge_wait,
            "post-first": timedelta(0),
            "auto": authority.auto_post_after,
        }[authority.challenge_trigger]
        if self._mail_was_kept(enrollment):
            self._check_kept(enrollment, challenge)
            look_again = timedelta(0)
        return Step(
            ChallengeKnown(
                challenge_url=challenge.url,
                challenge_sender=challenge.sender,
                token_part2=challenge.token_part2,
                proving=enrollment.proving,
                proofs=enrollment.proofs,
                next_attempt_at=self.desk.clock() + look_again,
            )
        )

    def _check_kept(self, enrollment: Enrollment, challenge: _Challenge) -> None:
        """What is kept answers the challenge as it was read at first. With another token-part2 it is another one, which
        that reply does not fit.
        """
        before = enrollment.proofs[enrollment.place_at_hand].sealed_token
        assert before is not None  # no mail is kept before
        unsealed = [
            self.desk.vault.unseal_token(enrollment.id, one) for one in (b64decode(before), challenge.token_part2)
        ]
        if unsealed[0] != unsealed[1]:
            raise OrderDied(f"the authority has made another challenge for {enrollment.at_hand}", again=True)

    def _mail_was_kept(self, enrollment: Enrollment) -> bool:
        """Whether the challenge mail of the address at hand came before its turn. One that is kept after this look has
        moved the enrollment's version on, so that this step is void.
        """
        if not enrollment.aliases:
            return False
        with self.desk.database.read() as connection:
            replies = outbox.of_enrollment(connection, enrollment.id)
        return any(entry.is_kept and is_at_hand(enrollment, entry) for entry in replies)
