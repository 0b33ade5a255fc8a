# SPDX-License-Identifier: GPL-3.0-or-later
"""The project's test CA as a process, and an MX that keeps the mails it sends."""

import asyncio
import email
import email.policy
import hashlib
import json
import queue
import smtplib
import subprocess
import sys
import time
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from acme_milter.acme.authorization import EmailChallenge
from acme_milter.acme.network import Network
from tests.acme.scripted_authority import LocalSigner, b64

MAC_KEY = b"an external MAC key of 32 bytes!"


class Inbox:
    """Takes every mail and hands it out by recipient."""

    def __init__(self) -> None:
        self._mails: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self._kept: dict[str, EmailMessage] = {}

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:  # noqa: N802  # aiosmtpd
        self._mails.put((envelope.rcpt_tos[0], envelope.content))
        return "250 taken"

    def wait_for(self, recipient: str) -> EmailMessage:
        deadline = time.monotonic() + 10
        while recipient not in self._kept:
            to, raw = self._mails.get(timeout=max(deadline - time.monotonic(), 0.01))
            mail = email.message_from_bytes(raw, policy=email.policy.SMTP)
            assert isinstance(mail, EmailMessage)
            self._kept[to] = mail
        return self._kept.pop(recipient)


class FreePortController(Controller):
    """aiosmtpd's controller pokes the port it was told, which is 0 when any free one will do."""

    def _trigger_server(self) -> None:
        assert isinstance(self.server, asyncio.Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]  # aiosmtpd is typed in part


class Rehearsal:
    """The running CA. `announced` is what it wrote when ready."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.inbox = Inbox()
        self._networks: list[Network] = []
        self._mx = FreePortController(self.inbox, hostname="127.0.0.1", port=0)
        self._mx.start()
        out = directory / "directory.json"
        command = [sys.executable, "-m", "acme_milter.testca", "--state-dir", str(directory / "ca")]
        command += ["--smtp-target", f"127.0.0.1:{self._mx.port}", "--directory-out", str(out), "--reply-dkim", "off"]
        self._process = subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL)
        try:
            self._wait_for(out)
        except BaseException:
            self.stop()
            raise
        self.announced: dict[str, Any] = json.loads(out.read_text())
        self.control = self.network()

    def _wait_for(self, announcement: Path) -> None:
        deadline = time.monotonic() + 20
        while not announcement.exists():
            assert self._process.poll() is None, "the test CA ended"
            assert time.monotonic() < deadline, "the test CA did not get ready"
            time.sleep(0.02)

    def network(self, **options: Any) -> Network:
        """A client of this CA, closed at stop()."""
        bundle = Path(self.announced["ca_bundle"])
        self._networks.append(Network(self.announced["directory"], ca_bundle=bundle, **options))
        return self._networks[-1]

    def chaos(self, **knobs: object) -> None:
        """Set fault knobs."""
        headers = {"Content-Type": "application/json"}
        body = json.dumps(knobs).encode()
        status, _, _ = self.control._transport.exchange("POST", f"{self.announced['control']}/chaos", headers, body)
        assert status == 200

    def calm(self) -> None:
        """Reset all knobs."""
        self.control._transport.exchange("DELETE", f"{self.announced['control']}/chaos", {}, None)

    def answer_mail(self, address: str, challenge: EmailChallenge, thumbprint: str) -> None:
        """Wait for the ChallengeMail and reply to it, as a person with a calculator would."""
        mail = self.inbox.wait_for(address)
        part1 = mail["Subject"].removeprefix("ACME:").strip().rstrip("=")
        digest = hashlib.sha256(f"{part1}{challenge.token_part2}.{thumbprint}".encode()).digest()
        reply = (
            f"From: {address}\r\nTo: {challenge.sender}\r\nSubject: Re: ACME: {part1}\r\n"
            f"In-Reply-To: {mail['Message-ID']}\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n"
            f"-----BEGIN ACME RESPONSE-----\r\n{b64(digest)}\r\n-----END ACME RESPONSE-----\r\n"
        )
        with smtplib.SMTP("127.0.0.1", self.announced["mx_port"], timeout=10) as smtp:
            smtp.sendmail(address, [challenge.sender], reply.encode())

    def stop(self) -> None:
        """End the CA and the MX."""
        for network in self._networks:
            network.close()
        self._process.terminate()
        self._process.wait(10)
        self._mx.stop()


class MailboxKey(LocalSigner):
    """A key for a certificate, which can also sign its revocation."""

    def csr(self, address: str) -> bytes:
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        name = x509.SubjectAlternativeName([x509.RFC822Name(address)])
        request = builder.add_extension(name, critical=False).sign(self._key, hashes.SHA256())
        return request.public_bytes(serialization.Encoding.DER)

    def same_key(self, certificate: x509.Certificate) -> bool:
        public = certificate.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        return public.public_numbers() == self._key.public_key().public_numbers()


def renewal_id_of(certificate: x509.Certificate) -> str:
    """RFC 9773 §4.1, written a second time."""
    issuer = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert issuer is not None
    serial = certificate.serial_number
    return f"{b64(issuer)}.{b64(serial.to_bytes(serial.bit_length() // 8 + 1, 'big'))}"
