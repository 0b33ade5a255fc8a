# SPDX-License-Identifier: GPL-3.0-or-later
"""What surrounds a worker, once for the whole session: keyd, a test CA, an MX that brings mails to intakes, DNS."""

import asyncio
import itertools
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from aiosmtpd.controller import Controller

from acme_milter.enrollment.gate import Envelope
from acme_milter.keys.wrapping_key import create_wrapping_key_file
from acme_milter.lab.authority import AuthorityLab
from acme_milter.lab.name_server import NameServer
from acme_milter.lab.processes import ChildProcess, free_port, wait_until
from acme_milter.lab.system import make_dkim_key
from acme_milter.worker.intake import Candidate, Decision

DOMAIN = "org.example"
SELECTOR = "lab"
_KEYD = """
import sys
from pathlib import Path
from acme_milter.keys.keyd import serve
from acme_milter.keys.wrapping_key import FileSource, load_wrapping_key
serve(Path(sys.argv[1]), load_wrapping_key(FileSource(Path(sys.argv[2]))), pool_sizes={}, threads=40)
"""
ANSWERS = {"accept": "250 2.0.0 delivered", "discard": "250 2.0.0 swallowed", "tempfail": "451 4.7.1 try again later"}


class Mx(Controller):
    """Does with a mail what the intake of its first recipient says. `decisions` are theirs, by recipient."""

    def __init__(self) -> None:
        super().__init__(self, hostname="127.0.0.1", port=0)
        self.intakes: dict[str, Callable[[Candidate], Decision]] = {}
        self.decisions: dict[str, list[Decision]] = {}
        self.raws: dict[str, bytes] = {}
        self._queue_ids = itertools.count(1)

    def _trigger_server(self) -> None:
        # aiosmtpd pokes the port it was told, which is 0 when any free one will do.
        assert isinstance(self.server, asyncio.Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]  # aiosmtpd is typed in part

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802  # aiosmtpd's name
        recipients = tuple(envelope.rcpt_tos)
        queue_id = f"MX{next(self._queue_ids):05d}"
        told = Envelope(sender=envelope.mail_from, recipients=recipients, authenticated=False, queue_id=queue_id)
        self.raws[recipients[0]] = envelope.content
        decide = self.intakes.get(recipients[0])
        if decide is None:
            return "250 2.0.0 nobody looks"
        decision = await asyncio.to_thread(decide, Candidate(envelope=told, raw=envelope.content))
        self.decisions.setdefault(recipients[0], []).append(decision)
        return ANSWERS[decision.disposition]


class Site:
    """`numbers` gives each test mailboxes of its own, so that nothing of an earlier test can be taken for theirs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.keyd_socket = directory / "keyd.sock"
        self.key_file = directory / "dkim.pem"
        self.mx = Mx()
        self._numbers = itertools.count(1)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def addresses(self, count: int) -> list[str]:
        return [f"box{next(self._numbers)}@{DOMAIN}" for _ in range(count)]

    def _start(self, stack: ExitStack) -> None:
        wrapping_key = self.directory / "wrapping.key"
        create_wrapping_key_file(wrapping_key)
        keyd = ChildProcess(
            [sys.executable, "-c", _KEYD, str(self.keyd_socket), str(wrapping_key)],
            log=self.directory / "keyd.log",
            name="keyd",
        )
        keyd.start()
        stack.callback(keyd.stop)
        public = make_dkim_key(self.key_file)
        self.names = NameServer({f"{SELECTOR}._domainkey.{DOMAIN}": [f"v=DKIM1; k=rsa; p={public}"]})
        stack.enter_context(self.names)
        self.mx.start()
        stack.callback(self.mx.stop)
        self.replies_to = free_port()
        self.authority = AuthorityLab(
            self.directory / "ca",
            smtp_port=self.mx.port,
            mx_port=self.replies_to,
            resolver_port=self.names.port,
            options=["--first-pause", "0.05", "--senders", "8", "--seed", "1"],
        )
        self.authority.start()
        stack.callback(self.authority.stop)
        wait_until(self.keyd_socket.exists, "keyd's socket")
