# SPDX-License-Identifier: GPL-3.0-or-later
"""The other side of the mail: an MX that keeps what it is given, a name server, and signed replies."""

import asyncio
import base64
import email
import hashlib
import queue
import smtplib
import threading
from email.message import Message
from typing import Any

import dkim
from aiosmtpd.smtp import SMTP
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from dnslib import QTYPE, RCODE, RR, TXT
from dnslib.server import DNSLogger, DNSServer

from tests.testca.small_acme import b64

DOMAIN = "org.example"
REPLY_NAMES = [
    b"from",
    b"sender",
    b"reply-to",
    b"to",
    b"cc",
    b"subject",
    b"date",
    b"in-reply-to",
    b"references",
    b"message-id",
    b"content-type",
    b"content-transfer-encoding",
]


class Organization:
    """Keeps mails per recipient; `answers` are SMTP answers to give instead of taking a mail, one after another."""

    def __init__(self) -> None:
        self._boxes: dict[str, queue.Queue[bytes]] = {}
        self.answers: list[str] = []
        self.senders: list[str] = []
        self.rsa_key = rsa.generate_private_key(65537, 2048)
        self.ed25519_key = ed25519.Ed25519PrivateKey.generate()
        self.txt = {f"rsa._domainkey.{DOMAIN}": self._rsa_record(), f"ed._domainkey.{DOMAIN}": self._ed25519_record()}
        self.servfail: set[str] = set()
        self.loop = asyncio.new_event_loop()
        self.server: asyncio.Server | None = None
        self.thread = threading.Thread(target=self._run)
        self.dns = DNSServer(self, address="127.0.0.1", port=0, logger=DNSLogger(log="-request,-reply,-truncated"))

    def start(self) -> None:
        self.server = self.loop.run_until_complete(
            self.loop.create_server(
                lambda: SMTP(self, hostname="mx", loop=self.loop, enable_SMTPUTF8=True), "127.0.0.1", 0
            )
        )
        self.thread.start()
        self.dns.start_thread()

    def _run(self) -> None:
        """Serve until stopped, then let the open sessions see their end."""
        self.loop.run_forever()
        assert self.server is not None
        self.server.close()
        self.loop.run_until_complete(self._cut_sessions())
        self.loop.close()

    async def _cut_sessions(self) -> None:
        sessions = asyncio.all_tasks() - {asyncio.current_task()}
        for session in sessions:
            session.cancel()
        await asyncio.gather(*sessions, return_exceptions=True)
        await asyncio.sleep(0)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.dns.server.shutdown()
        self.dns.server.server_close()
        self.dns.thread.join()

    @property
    def mx_port(self) -> int:
        assert self.server is not None
        return int(self.server.sockets[0].getsockname()[1])

    @property
    def dns_port(self) -> int:
        return int(self.dns.server.server_address[1])

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        if self.answers:
            return self.answers.pop(0)
        self.senders.append(envelope.mail_from)
        for recipient in envelope.rcpt_tos:
            self.box(recipient).put(envelope.content)
        return "250 2.0.0 queued as 4f00BA"

    def resolve(self, request: Any, _handler: Any) -> Any:
        reply, name = request.reply(), str(request.q.qname).rstrip(".")
        if name in self.servfail:
            reply.header.rcode = RCODE.SERVFAIL
        elif name not in self.txt:
            reply.header.rcode = RCODE.NXDOMAIN
        else:
            text = self.txt[name].encode()
            chunks = [text[start : start + 255] for start in range(0, len(text), 255)]
            reply.add_answer(RR(request.q.qname, QTYPE.TXT, rdata=TXT(chunks)))
        return reply

    def box(self, recipient: str) -> "queue.Queue[bytes]":
        return self._boxes.setdefault(recipient, queue.Queue())

    def receive(self, recipient: str, timeout: float = 10.0) -> bytes:
        return self.box(recipient).get(timeout=timeout)

    def _rsa_record(self) -> str:
        public = self.rsa_key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode()}"

    def _ed25519_record(self) -> str:
        return f"v=DKIM1; k=ed25519; p={base64.b64encode(self.ed25519_key.public_key().public_bytes_raw()).decode()}"

    def sign(
        self, raw: bytes, *, names: list[bytes] = REPLY_NAMES, algorithm: str = "rsa", domain: str = DOMAIN
    ) -> bytes:
        if algorithm == "rsa":
            private = self.rsa_key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            selector, name = b"rsa", b"rsa-sha256"
        else:
            private = base64.b64encode(self.ed25519_key.private_bytes_raw())
            selector, name = b"ed", b"ed25519-sha256"
        signer = dkim.DKIM(raw, signature_algorithm=name)
        signature = signer.sign(selector, domain.encode(), private, include_headers=names)
        return bytes(signature) + raw


def token_of(mail: bytes) -> str:
    """Return token-part1 of a challenge mail whose Subject is plain or folded."""
    subject = str(email.message_from_bytes(mail)["Subject"])
    return "".join(subject.removeprefix("ACME:").split())


def digest_of(part1: str, part2: str, thumbprint: str, *, joining: str = "string") -> str:
    if joining == "bytes":
        octets = [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in (part1, part2)]
        token = b64(b"".join(octets))
    else:
        token = part1 + part2
    return b64(hashlib.sha256(f"{token}.{thumbprint}".encode()).digest())


def make_reply(
    mail: bytes,
    digest: str,
    *,
    headers: str = "",
    sender: str | None = None,
    subject: str | None = None,
    body: str | None = None,
    content: str = "Content-Type: text/plain; charset=us-ascii\r\nContent-Transfer-Encoding: 7bit\r\n",
) -> bytes:
    """Return an unsigned reply to a challenge mail; `headers` are further header lines."""
    challenge: Message = email.message_from_bytes(mail)
    block = f"-----BEGIN ACME RESPONSE-----\r\n{digest}\r\n-----END ACME RESPONSE-----\r\n"
    text = (
        f"{headers}"
        f"Subject: {subject or f'Re: ACME: {token_of(mail)}'}\r\n"
        f"From: {sender or challenge['To']}\r\n"
        f"To: {challenge['Reply-To'] or challenge['From']}\r\n"
        f"Message-ID: <{hashlib.sha256(mail).hexdigest()[:20]}@{DOMAIN}>\r\n"
        f"In-Reply-To: {challenge['Message-ID']}\r\n"
        f"References: {challenge['Message-ID']}\r\n"
        "Date: Sun, 22 Nov 2026 10:00:00 +0000\r\n"
        f"Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n{content}\r\n{block if body is None else body}"
    )
    return text.encode()


def send(port: int, raw: bytes) -> tuple[int, bytes]:
    """Hand a mail to the CA's MX; returns its answer."""
    message = email.message_from_bytes(raw)
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
        client.ehlo()
        client.mail(str(message["From"]))
        client.rcpt(str(message["To"]))
        return client.data(raw)
