# SPDX-License-Identifier: GPL-3.0-or-later
"""When and how challenge mails leave: one per authorization, with the faults of the MAIL_ knobs."""

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from acme_milter.testca.challenge_mail import ChallengeLetter, compose_challenge
from acme_milter.testca.chaos import Chaos
from acme_milter.testca.encoding import to_base64url
from acme_milter.testca.history import Happening
from acme_milter.testca.ledger import Authorization, fresh_name
from acme_milter.testca.office import Office
from acme_milter.testca.outgoing import Attempt, Outgoing, Parcel

_BEFORE_HTTP = 5.0
_KINDS = {True: Happening.MAIL_SENT, False: Happening.MAIL_BOUNCED}


@dataclass(slots=True)
class _Sent:
    raw: bytes
    details: dict[str, object]
    attempted: asyncio.Event


@dataclass(frozen=True, slots=True)
class Forgery:
    """A mail asked for over the control face. `knobs` overrule the CA's knobs for this mail; `raw` is sent as it is."""

    recipient: str
    kind: str
    sender: str | None = None
    token: str | None = field(default=None, repr=False)
    envelope: str | None = None
    recipients: tuple[str, ...] = ()
    knobs: Mapping[str, object] = field(default_factory=dict)
    raw: bytes | None = field(default=None, repr=False)


class Postroom:
    """Composes challenge mails and keeps account of their delivery."""

    def __init__(self, office: Office, outgoing: Outgoing) -> None:
        self._office = office
        self._outgoing = outgoing
        self._sent: dict[str, _Sent] = {}

    def sender_address(self, name: str) -> str:
        """Return the From address of an authorization's challenge mail (RFC 8823 §3: may be unique for each)."""
        unique = self._office.chaos.word("MAIL_FROM") == "unique"
        return f"acme-challenge{f'+{name}' if unique else ''}@{self._office.options.domain}"

    def reply_to(self, name: str) -> str | None:
        """Return the Reply-To address, by knob MAIL_REPLY_TO; only well-formed ones are expected in replies."""
        domain = self._office.options.domain
        return {
            "same": f"acme-reply+{name}@{domain}",
            "subdomain": f"acme-reply+{name}@replies.{domain}",
            "elsewhere": f"acme-reply+{name}@elsewhere.example",
            "two": f"acme-reply@{domain}, other@{domain}",
            "empty": "nobody:;",
        }.get(self._office.chaos.word("MAIL_REPLY_TO"))

    async def send_challenge(self, authorization: Authorization) -> None:
        """Queue the challenge mail of an authorization, once; with MAIL_BEFORE_HTTP await its first attempt."""
        challenge, chaos = authorization.challenge, self._office.chaos
        if challenge.mailed:
            return
        challenge.mailed = True
        letter = self._letter(
            challenge.sender, authorization.identifier, challenge.token_part1, reply_to=challenge.reply_to
        )
        challenge.message_id = letter.message_id
        if chaos.strikes("MAIL_FOREIGN"):
            foreign = self._letter(self.sender_address(fresh_name()), authorization.identifier)
            self._queue(foreign, chaos, {"foreign": True})
        about = {"authorization": authorization.name, "orders": self._orders(authorization)}
        if chaos.strikes("MAIL_LOSS"):
            raw = compose_challenge(letter, self._office.dkim_keys, self._office.pki, chaos)
            self._office.history.add(Happening.MAIL_LOST, raw=raw, recipient=letter.recipient, **about)
            return
        delay = chaos.seconds("MAIL_DELAY")
        if chaos.strikes("MAIL_REORDER"):
            delay += chaos.uniform(0.5, 2.0)
        sent = self._queue(letter, chaos, about, delay=delay, copies=2 if chaos.strikes("MAIL_DUP") else 1)
        if chaos.strikes("MAIL_BEFORE_HTTP"):
            await self._first_attempt(sent, _BEFORE_HTTP)

    def _orders(self, authorization: Authorization) -> list[str]:
        return [order.name for order in self._office.ledger.orders_with(authorization.name)]

    def _letter(
        self,
        sender: str,
        recipient: str,
        token: bytes | None = None,
        *,
        reply_to: str | None = None,
        token_text: str | None = None,
    ) -> ChallengeLetter:
        chaos = self._office.chaos
        text = token_text or to_base64url(token or secrets.token_bytes(chaos.number("TOKEN_PART1_BYTES")))
        if token_text is None and chaos.word("TOKEN_JOIN") == "string-padded":
            text += "=" * (-len(text) % 4)
        message_id = f"<{secrets.token_hex(12)}@{self._office.options.domain}>"
        return ChallengeLetter(sender, recipient, reply_to, text, message_id, self._office.clock())

    def _queue(
        self,
        letter: ChallengeLetter,
        chaos: Chaos,
        about: Mapping[str, object],
        *,
        delay: float = 0.0,
        copies: int = 1,
    ) -> _Sent:
        raw = compose_challenge(letter, self._office.dkim_keys, self._office.pki, chaos)
        recipients = [letter.recipient, *filter(None, [chaos.word("MAIL_MULTI_RCPT")])]
        envelope = "" if chaos.word("MAIL_RETURN_PATH") == "null" else f"bounces@{self._office.options.domain}"
        details = {"from": letter.sender, "message_id": letter.message_id} | dict(about)
        sent = [self.queue_raw(raw, envelope, recipients, details, delay=delay) for _ in range(copies)]
        return sent[0][1]

    def queue_raw(
        self,
        raw: bytes,
        envelope: str,
        recipients: list[str],
        details: Mapping[str, object],
        *,
        delay: float = 0.0,
    ) -> tuple[str, _Sent]:
        """Queue any mail for the organization's MX and write it into the history."""
        parcel = Parcel(fresh_name(), envelope, tuple(recipients), raw)
        known = {"mail": parcel.name, "recipient": recipients[0], "recipients": recipients} | dict(details)
        sent = _Sent(raw, known, asyncio.Event())
        self._sent[parcel.name] = sent
        self._office.history.add(Happening.MAIL_QUEUED, raw=raw, **known)
        self._outgoing.submit(parcel, delay=delay)
        return parcel.name, sent

    def send_forgery(self, forgery: Forgery) -> str:
        """Queue a foreign, forged or hand-made mail and return its name in the history; KnobError."""
        chaos = self._office.chaos.with_values({"MAIL_MULTI_RCPT": ""} | dict(forgery.knobs))
        fault = {"forged-unsigned": "unsigned", "forged-other-domain": "other-domain"}.get(forgery.kind)
        if fault is not None:
            chaos.set({"DKIM": fault})
        raw = forgery.raw
        if raw is None:
            sender = forgery.sender or self.sender_address(fresh_name())
            letter = self._letter(sender, forgery.recipient, token_text=forgery.token)
            raw = compose_challenge(letter, self._office.dkim_keys, self._office.pki, chaos)
        envelope = f"bounces@{self._office.options.domain}" if forgery.envelope is None else forgery.envelope
        recipients = [*(forgery.recipients or (forgery.recipient,)), *filter(None, [chaos.word("MAIL_MULTI_RCPT")])]
        name, _ = self.queue_raw(raw, envelope, recipients, {"forgery": forgery.kind})
        return name

    async def _first_attempt(self, sent: _Sent, seconds: float) -> None:
        try:
            await asyncio.wait_for(sent.attempted.wait(), seconds)
        except TimeoutError:
            return

    def attempted(self, attempt: Attempt) -> None:
        """Write one delivery attempt down (called on the loop's thread)."""
        sent = self._sent[attempt.parcel.name]
        kind = Happening.MAIL_DEFERRED if attempt.again else _KINDS[attempt.delivered]
        self._office.history.add(
            kind,
            raw=sent.raw,
            attempt=attempt.number,
            code=attempt.code,
            text=attempt.text,
            seconds=round(attempt.seconds, 4),
            **sent.details,
        )
        sent.attempted.set()
        if not attempt.again:
            del self._sent[attempt.parcel.name]
