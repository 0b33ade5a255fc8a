# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Postfix, the milter role as a process, and a worker's intake socket whose answers the test decides."""

import shutil
import smtplib
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from acme_milter.ipc.server import FrameServer
from acme_milter.lab.postfix import PostfixLab
from acme_milter.lab.processes import ChildProcess, wait_until

MANAGED = ("alice@org.example", "bob@org.example")
_ROLE = """
import sys
from pathlib import Path
from acme_milter.eventlog import configure_logging
{before}
from acme_milter.milter.service import run_milter
configure_logging("milter")
run_milter(socket=sys.argv[1], socket_mode=0o660, intake_socket=Path(sys.argv[2]), cpu="auto", deadline={deadline})
"""


@dataclass
class Seen:
    """One candidate as the worker got it."""

    header: dict[str, Any]
    raw: bytes


class StubWorker:
    """The intake socket: says who is managed, keeps the candidates, answers `disposition`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.managed: Sequence[str] = MANAGED
        self.disposition: Callable[[Seen], dict[str, object]] = lambda _: {"disposition": "accept", "reason": "test"}
        self.seen: list[Seen] = []
        self.asked_for_managed = threading.Event()
        self._server: FrameServer | None = None

    def start(self) -> None:
        self._server = FrameServer(self.path, 0o600, self._handle, threads=8)
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(grace=0.5)
            self._server = None

    def _handle(self, header: dict[str, object], body: bytes) -> tuple[dict[str, object], bytes]:
        if header["call"] == "managed":
            self.asked_for_managed.set()
            version = str(hash(tuple(self.managed)))
            if header["known"] == version:
                return {"version": version, "unchanged": True}, b""
            return {"version": version, "page": 0, "pages": 1}, "\n".join(self.managed).encode()
        candidate = Seen(header, body)
        self.seen.append(candidate)
        return self.disposition(candidate), b""


class MailRoom:
    """Postfix, milter and stub worker in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.worker = StubWorker(directory / "intake.sock")
        self.postfix: PostfixLab
        self.milter: ChildProcess

    @property
    def milter_socket(self) -> Path:
        return self.directory / "postfix" / "queue" / "acme-milter" / "acme-milter.sock"

    def start(
        self, *, before: str = "", deadline: float = 8.0, with_worker: bool = True, **postfix_options: Any
    ) -> None:
        postfix_options.setdefault("milter_socket", f"unix:{self.milter_socket}")
        self.postfix = PostfixLab(
            self.directory / "postfix",
            domains={"org.example": [*MANAGED, "carol@org.example", "dave"]},
            aliases={"team@org.example": ["carol@org.example", "dave@org.example"]},
            **postfix_options,
        )
        if with_worker:
            self.worker.start()
        self.postfix.start()
        code = _ROLE.format(before=before, deadline=deadline)
        self.milter = ChildProcess(
            [sys.executable, "-c", code, f"unix:{self.milter_socket}", str(self.worker.path)],
            name="milter", log=self.directory / "milter.log",
        )  # fmt: skip
        self.milter.start()
        wait_until(lambda: "role-ready" in self.log_text(), "the milter")

    def stop(self) -> None:
        if hasattr(self, "milter"):
            self.milter.stop()
        if hasattr(self, "postfix"):
            self.postfix.stop()
        self.worker.stop()

    def log_text(self) -> str:
        return self.milter.log.read_text(errors="replace")

    def send(
        self, raw: bytes, *recipients: str, sender: str = "acme@ca.example", options: Sequence[str] = ()
    ) -> tuple[int, bytes]:
        """The MX face's answer to the mail's end; recipients must be accepted."""
        with smtplib.SMTP("127.0.0.1", self.postfix.smtp_port, local_hostname="client.example", timeout=20) as smtp:
            smtp.ehlo()
            assert smtp.mail(sender, list(options))[0] == 250
            for recipient in recipients:
                assert smtp.rcpt(recipient)[0] == 250
            return send_data(smtp, raw)

    def delivered(self, address: str, count: int = 1) -> list[bytes]:
        """The mailbox's mails, headers that Postfix adds on delivery taken off, lines ended by CRLF again."""
        wait_until(lambda: len(self.postfix.inbox(address)) >= count, f"{count} mail(s) for {address}")
        return [_as_sent(raw) for raw in self.postfix.inbox(address)]


def send_data(smtp: smtplib.SMTP, raw: bytes) -> tuple[int, bytes]:
    """DATA with `raw` exactly as it is: smtplib's own would rewrite line ends."""
    code, text = smtp.docmd("DATA")
    if code != 354:
        return code, text
    smtp.send(raw.replace(b"\r\n.", b"\r\n..") + b".\r\n")
    return smtp.getreply()


def _as_sent(delivered: bytes) -> bytes:
    lines = delivered.split(b"\n")
    while lines[0].startswith((b"Return-Path:", b"X-Original-To:", b"Delivered-To:", b"Received:", b"\t")):
        lines.pop(0)
    return b"\r\n".join(lines)


@pytest.fixture
def mail_directory() -> Iterator[Path]:
    """A directory that the user postfix may pass through, which pytest's own are not."""
    directory = Path(tempfile.mkdtemp(prefix="acme-milter-test-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def unstarted(mail_directory: Path) -> Iterator[MailRoom]:
    """A mail room that the test starts with options of its own."""
    room = MailRoom(mail_directory)
    yield room
    room.stop()


@pytest.fixture
def room(unstarted: MailRoom) -> MailRoom:
    """A mail room with everything running."""
    unstarted.start()
    return unstarted
