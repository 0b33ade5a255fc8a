# SPDX-License-Identifier: GPL-3.0-or-later
"""From an admitted challenge mail to the exact bytes of its reply, sealed and ready for the outbox."""

import uuid
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from acme_milter.config.schema import Config, DkimKey, ReplyPolicy
from acme_milter.enrollment.model import Enrollment
from acme_milter.eventlog import Event, log_event
from acme_milter.protocol.mailbox import Mailbox
from acme_milter.protocol.reply_mail import ReplyMail, compose_reply
from acme_milter.protocol.token import join_token, joining_matters, key_authorization, response_digest
from acme_milter.store import accounts
from acme_milter.store.accounts import StoredAccount
from acme_milter.store.challenge_mails import StoredChallengeMail
from acme_milter.store.outbox import OutboxEntry
from acme_milter.worker.reply_signing import ReplySigner, UnusableSigningKey
from acme_milter.worker.vault import Vault

if TYPE_CHECKING:
    from acme_milter.worker.admission import Admission


class SigningKeyUnavailable(Exception):
    """A DKIM key that the configuration names cannot be used; the text names its file."""

    safe_text = True


class Answerer:
    """Needs neither keyd nor the authority: a challenge can be answered while both are away (F-04).

    Making one reads the keys of ``reply.dkim`` and raises SigningKeyUnavailable: at the start, not at the first mail.
    """

    def __init__(self, config: Callable[[], Config], vault: Vault) -> None:
        self._config = config
        self._vault = vault
        self._signers = load_signers(config())

    def prepare(self, config: Config) -> None:
        """Read the keys that another configuration names, before it is in force; raises SigningKeyUnavailable.

        The ones before stay: a mail that was admitted under them is signed with them.
        """
        self._signers = self._signers | load_signers(config)

    def answer(
        self,
        connection: sa.Connection,
        enrollment: Enrollment,
        admission: "Admission",
        *,
        queue_id: str | None,
        now: datetime,
    ) -> tuple[StoredChallengeMail, OutboxEntry]:
        """Compose the rows to insert. The caller's transaction makes them a promise."""
        mail = admission.mail
        mail_id, entry_id = uuid.uuid4().hex, uuid.uuid4().hex
        reply = self._compose(connection, enrollment, admission, entry_id, now)
        signature = admission.verdict.signature
        stored = StoredChallengeMail(
            id=mail_id,
            enrollment_id=enrollment.id,
            token_digest=mail.token_part1.digest(),
            sealed_mail=self._vault.seal_mail(mail_id, mail.raw),
            queue_id=queue_id,
            dkim_domain=signature.domain if signature else "",
            dkim_selector=signature.selector if signature else "",
            smime_signer=None if admission.smime is None else admission.smime.signer,
            disposition=admission.policy.on_success,
            accepted_at=now,
        )
        entry = OutboxEntry(
            id=entry_id,
            enrollment_id=enrollment.id,
            challenge_mail_id=mail_id,
            # Not "<>": SPF and DMARC would then rest on the HELO name, and some MX refuse that.
            envelope_sender=str(reply.sender),
            envelope_recipient=str(reply.recipient),
            message_id=reply.message_id,
            sealed_reply=self._vault.seal_reply(entry_id, self._sign(reply, admission.policy.reply, now)),
            created_at=now,
            next_attempt_at=now,
        )
        return stored, entry

    def _compose(
        self, connection: sa.Connection, enrollment: Enrollment, admission: "Admission", entry_id: str, now: datetime
    ) -> ReplyMail:
        authority = self._config().authorities[enrollment.authority]
        account = self._account(connection, enrollment)
        assert enrollment.token_part2 is not None  # the challenge's sender is known, so this is too
        part1 = admission.mail.token_part1
        joining = authority.token_join
        if authority.preset == "rfc8823" and joining_matters(part1):
            # RFC 8823 §3 step 6 says only "concatenates", and authorities differ; a wrong guess burns the order.
            octets = len(part1.decoded)
            key = f"authorities.{enrollment.authority}.token_join"
            log_event(
                Event.TOKEN_JOIN_ASSUMED, rcpt=enrollment.at_hand, authority=enrollment.authority, order=enrollment.id,
                token_join=joining, octets=octets,
                hint=f"if the authority does not believe the reply, set {key} to another of its values",
            )  # fmt: skip
        token = join_token(part1, self._vault.unseal_token(enrollment.id, enrollment.token_part2), joining)
        identifier = Mailbox.parse(enrollment.at_hand, allow_utf8=True)
        return compose_reply(
            admission.mail,
            identifier=identifier,
            digest=response_digest(key_authorization(token, account.thumbprint)),
            message_id=f"<acme-milter.{entry_id}@{identifier.domain}>",
            date=now,
            auto_submitted=authority.auto_submitted_reply,
        )

    def _account(self, connection: sa.Connection, enrollment: Enrollment) -> StoredAccount:
        """The one that the order was placed with: the digest is of its key, whoever else has accounts there."""
        account = accounts.ordered_with(connection, enrollment)
        assert account is not None
        return account

    def _sign(self, reply: ReplyMail, settings: ReplyPolicy, now: datetime) -> bytes:
        """RFC 8823 §3.2 item 9: the reply is DKIM-signed, by the site's signer (``relay``) or by us."""
        if settings.dkim == "relay":
            return reply.raw
        return self._signers[settings.dkim].sign(reply.raw, reply.sender.domain, now=now)


def load_signers(config: Config) -> dict[DkimKey, ReplySigner]:
    """A signer for each way that replies are signed by ourselves. Raises SigningKeyUnavailable."""
    signers = {}
    for layers in config.layers.values():
        for policy in layers.every_policy():
            settings = policy.reply.dkim
            if isinstance(settings, DkimKey) and settings not in signers:
                try:
                    signers[settings] = ReplySigner(settings.selector, settings.key_file)
                except UnusableSigningKey as error:
                    raise SigningKeyUnavailable(f"{settings.key_file}: {error}") from None
    return signers
