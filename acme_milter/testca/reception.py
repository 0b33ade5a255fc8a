# SPDX-License-Identifier: GPL-3.0-or-later
"""The CA's MX: takes replies in, finds the challenge each belongs to, and decides (RFC 8823 §3.2 and §6)."""

import asyncio
from typing import Any

from aiosmtpd.smtp import SMTP

from acme_milter.testca.encoding import to_base64url
from acme_milter.testca.history import Happening
from acme_milter.testca.ledger import Authorization, Status
from acme_milter.testca.lifecycle import decide, refresh_authorization
from acme_milter.testca.names import LookupFailedError, look_up_txt
from acme_milter.testca.office import Office
from acme_milter.testca.reply import (
    Reply,
    expected_digest,
    read_reply,
    reply_faults,
    single_address,
    subject_token,
    threading_verdict,
)
from acme_milter.testca.reply_dkim import dkim_faults

_LARGEST = 1024 * 1024


class Reception:
    """An aiosmtpd handler."""

    def __init__(self, office: Office) -> None:
        self._office = office

    # The hooks' names and their arguments are aiosmtpd's.
    async def handle_RCPT(  # noqa: N802  # aiosmtpd's name
        self, _server: Any, _session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        """Take mail for the CA's own domains only: a reply sent elsewhere must not count."""
        domain = self._office.options.domain
        if address.rpartition("@")[2].lower() not in (domain, f"replies.{domain}", "elsewhere.example"):
            return "550 5.7.1 Relaying denied"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802  # aiosmtpd's name
        """Judge a mail before it is acknowledged, so that "250" means "decided"."""
        raw: bytes = envelope.content
        details: dict[str, object] = {"sender": envelope.mail_from, "recipients": list(envelope.rcpt_tos)}
        if self._office.chaos.strikes("REPLY_GREYLIST"):
            return "451 4.7.1 Greylisted, come again"
        if self._office.chaos.strikes("REPLY_BOUNCE"):
            return "550 5.7.26 This mail has not been authenticated"
        return await self.receive(raw, details)

    async def receive(self, raw: bytes, details: dict[str, object]) -> str:
        """Decide about one mail and return the SMTP answer."""
        reply = read_reply(raw)
        authorization = self._find(reply)
        details["auto_submitted"] = reply.first("auto-submitted")
        if authorization is None:
            self._note(raw, details, verdict="unmatched", counted=False)
            return "250 2.0.0 Taken, but it belongs to nothing"
        challenge = authorization.challenge
        details["authorization"] = authorization.name
        details["identifier"] = authorization.identifier
        details["threading"] = threading_verdict(reply, challenge.message_id)
        try:
            faults = await self._faults(reply, authorization)
        except LookupFailedError:
            # RFC 6376 §6.1.2: no answer about the key is no answer about the mail.
            self._note(raw, details, verdict="deferred", counted=False)
            return "451 4.7.5 The key of your DKIM signature cannot be looked up now"
        details |= {"faults": faults, "digest": "wrong" if "digest" in faults else "right"}
        if challenge.replied:
            self._note(raw, details, verdict="duplicate", counted=False)
            return "250 2.0.0 Taken, but there was a reply already"
        challenge.replied = True
        self._note(raw, details, verdict="invalid" if faults else "valid", counted=True)
        delay = self._office.chaos.seconds("REPLY_READ_DELAY")
        if delay > 0:
            asyncio.get_running_loop().call_later(delay, self._read, authorization, tuple(faults))
        else:
            self._read(authorization, tuple(faults))
        return "250 2.0.0 Taken"

    def _read(self, authorization: Authorization, faults: tuple[str, ...]) -> None:
        challenge = authorization.challenge
        challenge.verdict = faults
        refresh_authorization(self._office, authorization)
        if self._office.chaos.word("VALIDATE_AT") == "reply" or challenge.posted:
            decide(self._office, authorization, faults)

    def _note(self, raw: bytes, details: dict[str, object], *, verdict: str, counted: bool) -> None:
        self._office.history.add(Happening.REPLY_RECEIVED, raw=raw, verdict=verdict, counted=counted, **details)

    def _find(self, reply: Reply) -> Authorization | None:
        ledger = self._office.ledger
        if self._office.chaos.strikes("MATCH_BY_FROM"):
            names = ledger.by_identifier.get(single_address(reply.first("from")) or "", [])
            pending = [ledger.authorizations[name] for name in names]
            open_ones = [one for one in pending if one.status is Status.PENDING and one.challenge.mailed]
            return open_ones[-1] if open_ones else None
        name = ledger.by_token.get(subject_token(reply.first("subject")) or "")
        return ledger.authorizations[name] if name is not None else None

    async def _faults(self, reply: Reply, authorization: Authorization) -> list[str]:
        office, challenge = self._office, authorization.challenge
        account = office.ledger.accounts[authorization.account]
        digest = expected_digest(challenge, office.chaos.word("TOKEN_JOIN"), account.thumbprint)
        threading = office.chaos.word("REPLY_THREADING")
        faults = reply_faults(reply, challenge, authorization.identifier, digest, threading)
        if subject_token(reply.first("subject")) != to_base64url(challenge.token_part1):
            faults.append("subject")
        resolver, mode = office.options.resolver, office.options.reply_dkim
        if mode != "off" and resolver is not None:
            faults += await dkim_faults(
                reply, lambda name: look_up_txt(resolver, name), strict=mode == "strict", now=office.clock()
            )
        return faults


class _Session(SMTP):
    """An SMTP session that can be cut when the CA stops."""

    def __init__(self, reception: "Mx", *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._mx = reception

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._mx.transports.add(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._mx.transports = {one for one in self._mx.transports if not one.is_closing()}
        super().connection_lost(error)


class Mx:
    """Listener for replies."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._server: asyncio.Server | None = None
        self.transports: set[asyncio.BaseTransport] = set()

    async def start(self) -> int:
        """Listen; returns the port."""
        host, port = self._office.options.mx_listen
        loop = asyncio.get_running_loop()
        handler = Reception(self._office)
        hostname = f"mx.{self._office.options.domain}"
        self._server = await loop.create_server(
            lambda: _Session(
                self, handler, hostname=hostname, enable_SMTPUTF8=True, data_size_limit=_LARGEST, loop=loop
            ),
            host,
            port,
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close the listener and cut open sessions."""
        if self._server is not None:
            self._server.close()
        for transport in self.transports:
            if isinstance(transport, asyncio.Transport):
                transport.abort()
