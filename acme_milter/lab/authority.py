# SPDX-License-Identifier: GPL-3.0-or-later
"""The test CA as a process of its own, and its control face as a Python object."""

import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import requests

from acme_milter.lab.processes import ChildProcess, ProcessFault, wait_until

START_TIMEOUT = 30.0


class AuthorityLab:
    """One running test CA.

    ``smtp_port`` is the MX that its challenge mails go to, ``mx_port`` where it takes replies, ``resolver_port`` the
    name server with the organization's DKIM keys; all on 127.0.0.1. ``knobs`` are its faults (see ``testca --knobs``).
    """

    def __init__(
        self,
        directory: Path,
        *,
        smtp_port: int,
        mx_port: int,
        resolver_port: int,
        domain: str = "ca.example",
        dkim_algorithm: str = "rsa",
        reply_dkim: str = "strict",
        eab: str | None = None,
        knobs: Mapping[str, object] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.domain = domain
        self.directory = directory
        self._ready_file = directory / "ready.json"
        argv = [sys.executable, "-m", "acme_milter.testca", "--state-dir", str(directory)]
        argv += ["--directory-out", str(self._ready_file), "--smtp-target", f"127.0.0.1:{smtp_port}"]
        argv += ["--mx-listen", f"127.0.0.1:{mx_port}", "--resolver", f"127.0.0.1:{resolver_port}"]
        argv += ["--domain", domain, "--dkim-algorithm", dkim_algorithm, "--reply-dkim", reply_dkim]
        if eab is not None:
            argv += ["--eab", eab]
        for name, value in (knobs or {}).items():
            argv += ["--chaos", f"{name}={value}"]
        self._process = ChildProcess([*argv, *options], log=directory / "testca.log", name="testca")
        self._ready: dict[str, Any] = {}
        self._session = requests.Session()
        self._session.trust_env = False

    @property
    def directory_url(self) -> str:
        return str(self._ready["directory"])

    @property
    def ca_bundle(self) -> Path:
        """The certificate that signed the CA's TLS certificate."""
        return Path(self._ready["ca_bundle"])

    @property
    def dns_port(self) -> int:
        """UDP port of the CA's own name server, which knows its DKIM keys."""
        return int(self._ready["dns_port"])

    def start(self) -> None:
        """Raises ProcessFault, with the end of its log, when it does not become ready."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._ready_file.unlink(missing_ok=True)
        self._process.start()
        try:
            wait_until(
                lambda: self._ready_file.exists() or not self._process.running, "the test CA", timeout=START_TIMEOUT
            )
        except ProcessFault as fault:
            raise ProcessFault(f"{fault}\n{self._process.log_tail()}") from None
        if not self._process.running:
            raise ProcessFault(f"the test CA ended at once\n{self._process.log_tail()}")
        self._ready = json.loads(self._ready_file.read_text(encoding="utf-8"))

    def stop(self) -> None:
        self._session.close()
        self.thaw()
        self._process.stop()

    def kill(self) -> None:
        """End it as a crash would: whoever asks it anything is refused the connection."""
        self._session.close()
        self._process.kill()

    def freeze(self) -> None:
        """Stop answering, with all connections kept: an authority that hangs."""
        self._process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on after `freeze`."""
        self._process.signal(signal.SIGCONT)

    def history(self, *kinds: str, after: int = 0, raw: bool = False, wait: float = 0.0) -> list[dict[str, Any]]:
        """What happened since event ``after``, of these kinds or of all; ``raw`` adds mails in base64."""
        query = {"after": after, "kind": ",".join(kinds), "raw": int(raw), "wait": wait}
        events: list[dict[str, Any]] = self._call("GET", "history", params=query)["events"]
        return events

    def set_knobs(self, **knobs: object) -> None:
        """Change faults while it runs."""
        self._call("POST", "chaos", json=knobs)

    def set_clock(self, ahead_seconds: float) -> None:
        """Date everything but the TLS certificate so many seconds later than the machine would."""
        self._call("POST", "clock", json={"ahead_seconds": ahead_seconds})

    def reset_knobs(self) -> None:
        self._call("DELETE", "chaos")

    def send_mail(self, to: str, kind: str, **details: object) -> str:
        """Have it send a mail of its own making: foreign, forged-unsigned, forged-other-domain, raw."""
        return str(self._call("POST", "mail", json={"to": to, "kind": kind, **details})["mail"])

    def dkim_records(self) -> dict[str, list[str]]:
        """The TXT records that its own name server has, by full name: for another one that is to know them, too."""
        records: dict[str, list[str]] = self._call("GET", "dns")["txt"]
        return records

    def orders(self) -> list[dict[str, Any]]:
        orders: list[dict[str, Any]] = self._call("GET", "orders")["orders"]
        return orders

    def certificates(self) -> list[dict[str, Any]]:
        """Everything it ever issued."""
        certificates: list[dict[str, Any]] = self._call("GET", "certificates")["certificates"]
        return certificates

    def log_text(self) -> str:
        return self._process.log.read_text(errors="replace")

    def _call(self, method: str, page: str, **arguments: Any) -> dict[str, Any]:
        url = f"{self._ready['control']}/{page}"
        answer = self._session.request(method, url, verify=str(self.ca_bundle), timeout=40, **arguments)
        answer.raise_for_status()
        document: dict[str, Any] = answer.json()
        return document
