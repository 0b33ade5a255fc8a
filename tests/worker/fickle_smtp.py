# SPDX-License-Identifier: GPL-3.0-or-later
"""A real SMTP server on the loopback, standing in for Postfix's submission face, that fails where it is told to."""

import asyncio
from enum import StrEnum
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP

QUEUED = "250 2.0.0 Ok: queued as 4Rz1Kd0F2cz"


class Mood(StrEnum):
    """What it does with the next mails."""

    TAKES = "takes"
    TAKES_AND_IS_TERSE = "takes and is terse"
    REFUSES_MAIL = "refuses at MAIL"
    REFUSES_RCPT = "refuses at RCPT"
    REFUSES_DATA = "refuses at DATA"
    REFUSES_CONTENT = "refuses at the final dot"
    CLOSES_AT_RCPT = "closes at RCPT"
    CLOSES_BEFORE_CONTENT = "closes at DATA"
    CLOSES_AT_DOT = "closes at the final dot"
    TAKES_AND_CLOSES = "takes the mail and closes without a word"
    HANGS_AT_RCPT = "hangs at RCPT"
    HANGS_AT_DOT = "hangs at the final dot"


class _Session(SMTP):
    def __init__(self, fickle: "FickleSmtp", *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._fickle = fickle

    def _cut(self) -> None:
        assert isinstance(self.transport, asyncio.Transport)
        self.transport.abort()

    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802  # aiosmtpd's name
        mood = self._fickle.mood
        if mood is Mood.REFUSES_DATA:
            await self.push(self._fickle.refusal)
        elif mood is Mood.CLOSES_BEFORE_CONTENT:
            self._cut()
        else:
            await super().smtp_DATA(arg)

    async def smtp_MAIL(self, arg: str) -> None:  # noqa: N802  # aiosmtpd's name
        if self._fickle.mood is Mood.REFUSES_MAIL:
            await self.push(self._fickle.refusal)
        else:
            await super().smtp_MAIL(arg)


class FickleSmtp(Controller):
    """`taken` are the mails it has; `refusal` is the line it refuses with."""

    def __init__(self, *, smtputf8: bool = True) -> None:
        super().__init__(self, hostname="127.0.0.1", port=0)
        self._smtputf8 = smtputf8
        self.mood = Mood.TAKES
        self.refusal = "451 4.3.0 try later"
        self.taken: list[Any] = []
        self.attempts = 0

    def factory(self) -> SMTP:
        return _Session(self, self.handler, enable_SMTPUTF8=self._smtputf8, hostname="localhost")

    def _trigger_server(self) -> None:
        # aiosmtpd pokes the port it was told, which is 0 when any free one will do.
        assert isinstance(self.server, asyncio.Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]  # aiosmtpd is typed in part

    async def handle_EHLO(self, server: Any, session: Any, _envelope: Any, hostname: str, responses: Any) -> Any:  # noqa: N802  # aiosmtpd's name
        self.attempts += 1
        session.host_name = hostname
        return responses

    async def handle_RCPT(self, server: Any, _session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802  # aiosmtpd's name
        if self.mood is Mood.REFUSES_RCPT:
            return self.refusal
        if self.mood is Mood.CLOSES_AT_RCPT:
            server._cut()
        if self.mood is Mood.HANGS_AT_RCPT:
            await asyncio.sleep(5)
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802  # aiosmtpd's name
        match self.mood:
            case Mood.REFUSES_CONTENT:
                return self.refusal
            case Mood.CLOSES_AT_DOT:
                server._cut()
            case Mood.HANGS_AT_DOT:
                await asyncio.sleep(5)
            case Mood.TAKES_AND_CLOSES:
                self.taken.append(envelope)
                server._cut()
            case Mood.TAKES_AND_IS_TERSE:
                self.taken.append(envelope)
                return "250 OK"
            case _:
                self.taken.append(envelope)
        return QUEUED
