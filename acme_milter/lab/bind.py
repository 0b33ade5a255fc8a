# SPDX-License-Identifier: GPL-3.0-or-later
"""A private, real BIND: its zones and keys in one directory, on a free loopback port, taking updates under TSIG."""

import base64
import secrets
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from acme_milter.lab.processes import ChildProcess, ProcessFault, free_port, wait_until

_ATTEMPTS = 3
_RUNNING = "running"
_PROGRAMS = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C"}

_CONFIGURATION = """\
options {{
  directory "{directory}";
  pid-file "{directory}/named.pid";
  session-keyfile "{directory}/session.key";
  managed-keys-directory "{directory}";
  listen-on port {port} {{ 127.0.0.1; }};
  listen-on-v6 {{ none; }};
  recursion no;
  notify no;
  allow-transfer {{ none; }};
  dnssec-validation no;
}};
controls {{ }};
"""
_KEY = """\
key "{name}" {{ algorithm hmac-sha256; secret "{secret}"; }};
"""
_ZONE = """\
zone "{name}" {{ type primary; file "{directory}/{name}.zone"; {policy} }};
"""
_ZONE_FILE = """\
$TTL 300
@ IN SOA ns.{name}. hostmaster.{name}. 1 3600 600 86400 300
@ IN NS ns.{name}.
ns.{name}. IN A 127.0.0.1
"""


class BindLab:
    """One named. ``directory`` must be new; `remove` deletes it.

    ``zones`` says what may be updated in each: the text of its `update-policy`, or nothing at all where it is empty.
    ``keys`` are the names of TSIG keys, hmac-sha256; `secrets` has what they are made of, in base64.
    """

    def __init__(self, directory: Path, *, zones: Mapping[str, str], keys: Sequence[str] = ()) -> None:
        self.directory = directory
        self.port = 0
        self.secrets = {name: base64.b64encode(secrets.token_bytes(32)).decode() for name in keys}
        self._zones = dict(zones)
        self._server: ChildProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @property
    def process(self) -> ChildProcess:
        """The server's process, for a test that freezes or kills it. Raises ProcessFault before the first start."""
        if self._server is None:
            raise ProcessFault("named was not started")
        return self._server

    def zone_file(self, name: str) -> Path:
        """Where a zone's records are, those apart that a journal holds."""
        return self.directory / f"{name}.zone"

    def start(self) -> None:
        """Write the zones at the first start, and return when all of them are served; raises ProcessFault."""
        if not self.directory.exists():
            self.directory.mkdir(parents=True)
            for name in self._zones:
                self.zone_file(name).write_text(_ZONE_FILE.format(name=name), encoding="utf-8")
        for attempt in range(_ATTEMPTS):
            self.port = _free_port()
            try:
                self._start()
            except ProcessFault:
                if attempt + 1 == _ATTEMPTS:
                    raise
            else:
                return

    def stop(self) -> None:
        """End it as a crash would; the zones' journals stay."""
        if self._server is not None:
            self._server.kill()

    def remove(self) -> None:
        """Stop it and delete everything."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def dig(self, name: str, kind: str) -> list[str]:
        """The data of a name's records, as `dig +short` shows them, sorted; raises ProcessFault without an answer."""
        argv = ["dig", "@127.0.0.1", "-p", str(self.port), "+short", "+tcp", "+tries=1", "+time=5", name, kind]
        done = subprocess.run(argv, env=_PROGRAMS, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ProcessFault(f"dig ended with {done.returncode}: {done.stdout}{done.stderr}")
        return sorted(done.stdout.splitlines())

    def _start(self) -> None:
        configuration = self.directory / "named.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(self._configuration(), encoding="utf-8")
        log = self.directory / "named.log"
        before = _count(log)
        # One thread, and no change of user: all that it may touch is in its directory.
        argv = ["named", "-g", "-4", "-n", "1", "-c", str(configuration)]
        self._server = ChildProcess(argv, name="named", log=log, env=_PROGRAMS)
        self._server.start()
        try:
            wait_until(lambda: self._is_ready(before), "named to serve its zones")
        except ProcessFault as fault:
            self.stop()
            raise ProcessFault(f"{fault}\n{self._server.log_tail()}") from None

    def _is_ready(self, before: int) -> bool:
        if not self.process.running:
            raise ProcessFault(f"named ended with status {self.process.returncode}")
        return _count(self.process.log) > before

    def _configuration(self) -> str:
        texts = [_CONFIGURATION.format(directory=self.directory, port=self.port)]
        texts += [_KEY.format(name=name, secret=secret) for name, secret in self.secrets.items()]
        for name, policy in self._zones.items():
            said = f"update-policy {{ {policy} }};" if policy else ""
            texts.append(_ZONE.format(name=name, directory=self.directory, policy=said))
        return "".join(texts)


def _free_port() -> int:
    """A port that is free for UDP and TCP alike."""
    while True:
        port = free_port()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _count(log: Path) -> int:
    """How often the server has said that all of its zones are loaded."""
    if not log.exists():
        return 0
    return sum(line.endswith(f" {_RUNNING}") for line in log.read_text(errors="replace").splitlines())
