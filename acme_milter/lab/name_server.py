# SPDX-License-Identifier: GPL-3.0-or-later
"""A real DNS server on loopback for DKIM keys and CAA records, over UDP and TCP; what it knows, and how it misbehaves,
can change.
"""

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Iterable, Mapping
from enum import StrEnum

from dnslib import CAA, OPCODE, QTYPE, RCODE, RR, TXT, DNSError, DNSRecord

from acme_milter.lab.processes import free_port

_TTL = 5
_STRING = 255  # octets of one character-string of a TXT record, RFC 1035 §3.3
_PLAIN_UDP = 512  # octets of an answer to someone who sent no EDNS size, RFC 1035 §4.2.1


class NameFault(StrEnum):
    """How a name is (not) answered."""

    SERVFAIL = "servfail"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    NODATA = "nodata"


class NameServer:
    """Answers TXT and CAA questions on 127.0.0.1:`port`, a name it does not know with NXDOMAIN.

    `zones` maps a name to its TXT records. Names are compared without case and without a final dot. A fault on a name
    holds for every name below it too; "" is the fault of everything.
    """

    def __init__(self, zones: Mapping[str, Iterable[str]] | None = None) -> None:
        self._lock = threading.Lock()
        self._records: dict[str, list[bytes]] = {}
        self._caa: dict[str, list[CAA]] = {}
        self._faults: dict[str, NameFault] = {}
        self._asked: list[str] = []
        self._thread: threading.Thread | None = None
        self.port = 0
        for name, texts in (zones or {}).items():
            for text in texts:
                self.add_txt(name, text)

    @property
    def address(self) -> str:
        """`127.0.0.1:port`, as `dns.nameservers` takes it."""
        return f"127.0.0.1:{self.port}"

    @property
    def questions(self) -> list[str]:
        """The names asked for so far, in lower case."""
        with self._lock:
            return list(self._asked)

    def add_txt(self, name: str, text: str | bytes) -> None:
        """Add one TXT record; a name may have several."""
        octets = text.encode() if isinstance(text, str) else text
        with self._lock:
            self._records.setdefault(_key(name), []).append(octets)

    def set_txt(self, name: str, *texts: str | bytes) -> None:
        """Make these the only TXT records of a name; with none it is NXDOMAIN."""
        self.remove(name)
        for text in texts:
            self.add_txt(name, text)

    def set_caa(self, name: str, *records: tuple[int, str, str]) -> None:
        """Make these (flags, tag, value) the only CAA records of a name."""
        with self._lock:
            self._caa[_key(name)] = [CAA(*record) for record in records]

    def remove(self, name: str) -> None:
        """Forget a name."""
        with self._lock:
            self._records.pop(_key(name), None)

    def set_fault(self, name: str, fault: NameFault | str | None) -> None:
        """Misbehave for a name and those below it; None ends that."""
        with self._lock:
            if fault is None:
                self._faults.pop(_key(name), None)
            else:
                self._faults[_key(name)] = NameFault(fault)

    def start(self) -> None:
        """Listen on a free port."""
        self.port = free_port()
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", self.port))
        self._tcp = socket.create_server(("127.0.0.1", self.port))
        self._wake, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="lab-name-server", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; harmless when it never did."""
        if self._thread is not None:
            self._waker.sendall(b".")
            self._thread.join()
            self._thread = None
            for end in (self._udp, self._tcp, self._wake, self._waker):
                end.close()

    def __enter__(self) -> "NameServer":
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for end in (self._udp, self._tcp, self._wake):
                selector.register(end, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if self._wake in ready:
                    return
                if self._udp in ready:
                    self._serve_udp()
                if self._tcp in ready:
                    self._serve_tcp()

    def _serve_udp(self) -> None:
        question, client = self._udp.recvfrom(4096)
        answer = self._answer(question, over_udp=True)
        if answer is not None:
            # The one who asked may be gone by now.
            with contextlib.suppress(OSError):
                self._udp.sendto(answer, client)

    def _serve_tcp(self) -> None:
        connection, _ = self._tcp.accept()
        with connection, contextlib.suppress(OSError, struct.error):
            connection.settimeout(2.0)
            with connection.makefile("rb") as stream:
                (length,) = struct.unpack(">H", stream.read(2))
                answer = self._answer(stream.read(length), over_udp=False)
            if answer is not None:
                connection.sendall(struct.pack(">H", len(answer)) + answer)

    def _answer(self, octets: bytes, *, over_udp: bool) -> bytes | None:
        try:
            question = DNSRecord.parse(octets)
        except DNSError:
            return None
        name = _key(str(question.q.qname))
        with self._lock:
            self._asked.append(name)
            fault = next((self._faults[n] for n in _name_and_above(name) if n in self._faults), None)
            texts = self._records.get(name, [])
            permissions = self._caa.get(name, [])
            exists = any(n == name or n.endswith("." + name) for n in (*self._records, *self._caa))
        reply = question.reply()
        if fault is NameFault.TIMEOUT:
            return None
        if question.header.opcode != OPCODE.QUERY or fault is NameFault.REFUSED:
            reply.header.rcode = RCODE.REFUSED
        elif fault is NameFault.SERVFAIL:
            reply.header.rcode = RCODE.SERVFAIL
        elif fault is NameFault.NODATA:
            pass
        elif not exists:
            reply.header.rcode = RCODE.NXDOMAIN
        elif question.q.qtype in {QTYPE.TXT, QTYPE.ANY}:
            for text in texts:
                reply.add_answer(RR(question.q.qname, QTYPE.TXT, rdata=TXT(_strings(text)), ttl=_TTL))
        elif question.q.qtype == QTYPE.CAA:
            for permission in permissions:
                reply.add_answer(RR(question.q.qname, QTYPE.CAA, rdata=permission, ttl=_TTL))
        packed: bytes = reply.pack()
        if over_udp and len(packed) > _room(question):
            # Not dnslib's truncate(): it drops the question too, and resolvers then ignore the answer.
            reply.rr.clear()
            reply.header.tc = 1
            packed = reply.pack()
        return packed


def _key(name: str) -> str:
    return name.rstrip(".").casefold()


def _name_and_above(name: str) -> list[str]:
    labels = name.split(".")
    return [".".join(labels[at:]) for at in range(len(labels))] + [""]


def _strings(text: bytes) -> list[bytes]:
    return [text[at : at + _STRING] for at in range(0, len(text), _STRING)] or [b""]


def _room(question: DNSRecord) -> int:
    sizes: list[int] = [extra.edns_len for extra in question.ar if extra.rtype == QTYPE.OPT]
    return max([_PLAIN_UDP, *sizes])
