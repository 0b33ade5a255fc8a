# SPDX-License-Identifier: GPL-3.0-or-later
"""DNS over real UDP: the CA's own zone, and the look-up of the organization's DKIM keys."""

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from dnslib import QTYPE, RCODE, RR, TXT, DNSError, DNSRecord

_TRIES = (1.0, 2.0, 2.0)


class LookupFailedError(Exception):
    """No answer that says yes or no: time-out, SERVFAIL. RFC 6376 §6.1.2 calls for another try later."""


class NameServer(asyncio.DatagramProtocol):
    """Answers TXT questions from a table; `fault` returns the present value of knob DNS."""

    def __init__(self, records: Mapping[str, Sequence[str]], fault: Callable[[], str]) -> None:
        self.records: dict[str, list[str]] = {name: list(texts) for name, texts in records.items()}
        self._fault = fault
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio's own UDP transport is no instance of its DatagramTransport before Python 3.12.
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        try:
            question = DNSRecord.parse(data)
        except DNSError:
            return
        answer = self._answer(question)
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, addr)

    def _answer(self, question: DNSRecord) -> bytes | None:
        fault = self._fault()
        if fault == "timeout":
            return None
        reply = question.reply()
        texts = self.records.get(str(question.q.qname).rstrip(".").lower())
        if fault == "servfail":
            reply.header.rcode = RCODE.SERVFAIL
        elif texts is None or fault == "nxdomain":
            reply.header.rcode = RCODE.NXDOMAIN
        elif question.q.qtype in (QTYPE.TXT, QTYPE.ANY):
            for text in texts:
                reply.add_answer(RR(question.q.qname, QTYPE.TXT, ttl=60, rdata=TXT(split_text(text))))
        return bytes(reply.pack())


def split_text(text: str) -> list[bytes]:
    """Split a TXT record into character-strings of at most 255 octets (RFC 1035 §3.3.14, RFC 6376 §3.6.2.2)."""
    data = text.encode("ascii")
    return [data[start : start + 255] for start in range(0, len(data), 255)] or [b""]


class _Question(asyncio.DatagramProtocol):
    def __init__(self, identity: int) -> None:
        self._identity = identity
        self.answer: asyncio.Future[DNSRecord] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        try:
            answer = DNSRecord.parse(data)
        except DNSError:
            return
        if answer.header.id == self._identity and not self.answer.done():
            self.answer.set_result(answer)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(LookupFailedError("the resolver's port is closed"))


async def look_up_txt(resolver: tuple[str, int], name: str) -> list[bytes]:
    """Return the TXT records of a name, each with its strings joined; empty when there are none. LookupFailedError."""
    answers = await look_up(resolver, name, "TXT")
    return [b"".join(record.rdata.data) for record in answers if record.rtype == QTYPE.TXT]


async def look_up(resolver: tuple[str, int], name: str, kind: str) -> list[RR]:
    """Return the answers to a question; none when the name or the record does not exist. LookupFailedError."""
    for patience in _TRIES:
        identity = secrets.randbelow(65536)
        question = DNSRecord.question(name, kind)
        question.header.id = identity
        transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda identity=identity: _Question(identity),  # type: ignore[misc]  # mypy: default in a lambda
            remote_addr=resolver,
        )
        try:
            transport.sendto(question.pack())
            answer = await asyncio.wait_for(protocol.answer, patience)
        except TimeoutError:
            continue
        finally:
            transport.close()
        return _answers(answer)
    raise LookupFailedError("the resolver did not answer")


def _answers(answer: DNSRecord) -> list[RR]:
    if answer.header.rcode == RCODE.NXDOMAIN:
        return []
    if answer.header.rcode != RCODE.NOERROR:
        raise LookupFailedError(f"the resolver answered {RCODE.get(answer.header.rcode)}")
    return list(answer.rr)
