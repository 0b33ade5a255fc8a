# SPDX-License-Identifier: GPL-3.0-or-later
"""A real name server on UDP and TCP of the loopback, serving TXT records and misbehaving on demand."""

import socketserver
import threading
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Self

from dnslib import QTYPE, RCODE, RR, TXT, A, DNSRecord

_STRING_OCTETS = 255
_UDP_OCTETS = 1232


class Misbehaviour(StrEnum):
    """What a name may be mapped to instead of records."""

    SERVFAIL = "servfail"
    REFUSED = "refused"
    SILENCE = "silence"
    GARBAGE = "garbage"
    NO_DATA = "no-data"
    OTHER_TYPE = "other-type"


Zone = Mapping[str, Sequence[bytes] | Misbehaviour]


def _both_on_one_port() -> "tuple[_Udp, _Tcp]":
    """The kernel chooses a free UDP port; another program may hold the TCP port of that number."""
    while True:
        udp = _Udp(("127.0.0.1", 0), _UdpHandler)
        try:
            return udp, _Tcp(udp.server_address, _TcpHandler)
        except OSError:
            udp.server_close()


class KeyServer:
    """Serves `zone`, which a test may replace at any time; records have the time to live `ttl`."""

    def __init__(self, zone: Zone | None = None, ttl: int = 0) -> None:
        self.zone: Zone = zone or {}
        self.ttl = ttl
        self.questions: list[tuple[str, str]] = []
        self._udp, self._tcp = _both_on_one_port()
        self._threads = []
        for server in (self._udp, self._tcp):
            server.answer = self.answer
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
            thread.start()
            self._threads.append(thread)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._udp.server_address[:2]
        return str(host), int(port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self._udp, self._tcp):
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join()

    def answer(self, packet: bytes, transport: str) -> bytes | None:
        request = DNSRecord.parse(packet)
        name = str(request.q.qname).rstrip(".").lower()
        self.questions.append((name, transport))
        reply = request.reply()
        found = self.zone.get(name)
        match found:
            case Misbehaviour.SILENCE:
                return None
            case Misbehaviour.GARBAGE:
                return packet[:2] + b"\xff" * 40
            case Misbehaviour.SERVFAIL:
                reply.header.rcode = RCODE.SERVFAIL
            case Misbehaviour.REFUSED:
                reply.header.rcode = RCODE.REFUSED
            case Misbehaviour.NO_DATA:
                pass
            case Misbehaviour.OTHER_TYPE:
                reply.add_answer(RR(name, QTYPE.A, rdata=A("192.0.2.1"), ttl=self.ttl))
            case None:
                reply.header.rcode = RCODE.NXDOMAIN
            case records:
                for record in records:
                    strings = [record[at : at + _STRING_OCTETS] for at in range(0, len(record), _STRING_OCTETS)]
                    reply.add_answer(RR(name, QTYPE.TXT, rdata=TXT(strings or [b""]), ttl=self.ttl))
        packed: bytes = reply.pack()
        if transport == "udp" and len(packed) > _UDP_OCTETS:
            short = request.reply()
            short.header.tc = 1
            packed = short.pack()
        return packed


class _Udp(socketserver.ThreadingUDPServer):
    daemon_threads = True
    answer: Any


class _Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    answer: Any


class _UdpHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        packet, socket = self.request
        answer = self.server.answer(packet, "udp")  # type: ignore[attr-defined] # set on our own server classes
        if answer is not None:
            socket.sendto(answer, self.client_address)


class _TcpHandler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        size = self.rfile.read(2)
        answer = self.server.answer(self.rfile.read(int.from_bytes(size, "big")), "tcp")  # type: ignore[attr-defined] # as above
        if answer is not None:
            self.wfile.write(len(answer).to_bytes(2, "big") + answer)
