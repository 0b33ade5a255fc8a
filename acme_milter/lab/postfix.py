# SPDX-License-Identifier: GPL-3.0-or-later
"""A private, real Postfix: its own configuration, queue and mailboxes in one directory, on two free loopback ports.

It has two listeners. The MX face takes mail from "the internet" and asks the milter under test; the reply face takes
what the worker sends and never asks that milter. Mail for the given mailboxes lands in maildirs, mail for a routed
domain goes to the given port, and everything else is undeliverable, so nothing can leave the machine. DNS is not asked.
"""

import contextlib
import grp
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from acme_milter.lab.postfix_config import (
    MAILBOX_UID,
    QUEUE_DIRECTORIES,
    main_cf,
    master_cf,
    milter_entry,
    table,
)
from acme_milter.lab.processes import ChildProcess, ProcessFault, free_port, wait_until

_DAEMONS = Path("/usr/lib/postfix/sbin")
_ATTEMPTS = 3


class PostfixLab:
    """One Postfix.

    `domains` maps a domain to its mailboxes (full addresses or local parts). `milter_socket` is what asks at the MX
    face, in any spelling acme-milter takes (`unix:/path`, `local:/path`, `inet:port@host`) or Postfix's own.
    `ca_routes` maps a domain to the host and port its mail is handed to. `relay_milters` are asked at the reply face,
    in order. `aliases` maps an address to the addresses it stands for. `main_extra` and `master_extra` are appended to
    main.cf and master.cf, so that a documented snippet can be proved.

    A milter's unix socket must lie where the user postfix may pass: `socket_directory` is made for that.
    The directory must be new; `stop` leaves the mailboxes and the log readable, `remove` takes it all away.
    """

    def __init__(
        self,
        directory: Path,
        *,
        domains: Mapping[str, Sequence[str]],
        milter_socket: str | None = None,
        ca_routes: Mapping[str, tuple[str, int]] | None = None,
        relay_milters: Sequence[str] = (),
        aliases: Mapping[str, Sequence[str]] | None = None,
        main_extra: str = "",
        master_extra: str = "",
    ) -> None:
        self.directory = directory
        self.queue_directory = directory / "queue"
        self.socket_directory = self.queue_directory / "acme-milter"
        self.smtp_port = 0
        self.reply_port = 0
        self._mailboxes = {
            (name if "@" in name else f"{name}@{domain}").casefold()
            for domain, names in domains.items()
            for name in names
        }
        self._domains = sorted(domains)
        self._routes = dict(ca_routes or {})
        self._aliases = {k: list(v) for k, v in (aliases or {}).items()}
        self._relay_milters = list(relay_milters)
        self._milter_socket = milter_socket
        self._main_extra = main_extra
        self._master_extra = master_extra
        self._master: ChildProcess | None = None

    @property
    def config_directory(self) -> Path:
        """Where main.cf and master.cf are."""
        return self.directory / "etc"

    @property
    def log_path(self) -> Path:
        """Where Postfix writes its log."""
        return self.directory / "maillog"

    def start(self) -> None:
        """Start it and return when both faces greet; raises ProcessFault with the log's end when they do not."""
        if os.getuid() != 0:
            raise ProcessFault("Postfix can only be started as root")
        if not (_DAEMONS / "master").exists():
            raise ProcessFault("Postfix is not installed (Debian: apt-get install postfix)")
        self._make_directories()
        for attempt in range(_ATTEMPTS):
            self.smtp_port, self.reply_port = free_port(), free_port()
            self._write_configuration()
            try:
                self._start_master()
            except ProcessFault:
                self._stop_master()
                if attempt + 1 == _ATTEMPTS or not (_is_taken(self.smtp_port) or _is_taken(self.reply_port)):
                    raise
            else:
                return

    def stop(self) -> None:
        """Stop every process of it; mail still queued stays in the queue."""
        self._stop_master()

    def remove(self) -> None:
        """Stop, and delete the whole directory with the mailboxes and the log."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def log_text(self) -> str:
        """Everything Postfix has logged so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_of(self, queue_id: str) -> str:
        """The log lines of one message."""
        return "\n".join(line for line in self.log_text().splitlines() if f" {queue_id}: " in line)

    def maildir(self, address: str) -> Path:
        """The maildir of a mailbox; raises KeyError for an address that is none of ours."""
        address = address.casefold()
        if address not in self._mailboxes:
            raise KeyError(address)
        local, _, domain = address.rpartition("@")
        return self.directory / "mail" / domain / local

    def inbox(self, address: str) -> list[bytes]:
        """The delivered messages of a mailbox, oldest first, as written: Return-Path, Delivered-To on top."""
        new = self.maildir(address) / "new"
        if not new.exists():
            return []
        return [path.read_bytes() for path in sorted(new.iterdir(), key=_delivery_order)]

    def queue_is_empty(self) -> bool:
        """True when no message is in any queue, the deferred and the corrupt one included."""
        for name in ("maildrop", "incoming", "active", "deferred", "hold", "corrupt"):
            for _, _, files in os.walk(self.queue_directory / name):
                if files:
                    return False
        return True

    def wait_for_empty_queue(self, timeout: float = 60.0) -> None:
        """Return when all mail is delivered or bounced; raises ProcessFault after `timeout` seconds."""
        wait_until(self.queue_is_empty, "Postfix's queue to become empty", timeout=timeout)

    def flush(self) -> None:
        """Try every deferred message now (`postqueue -f`)."""
        done = self._command("postqueue", "-f")
        if done.returncode != 0:
            raise ProcessFault(f"postqueue -f: {done.stderr}")

    def reload(self) -> None:
        """Make Postfix read its configuration again (`postfix reload`)."""
        if self._master is None:
            raise ProcessFault("Postfix is not running")
        self._master.signal(signal.SIGHUP)

    def add_mailboxes(self, addresses: Sequence[str]) -> None:
        """Give more mailboxes to domains it already serves; in force at once."""
        self._mailboxes.update(address.casefold() for address in addresses)
        self._write_tables()
        self.reload()

    def _make_directories(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        # The daemons run as postfix and as the mailboxes' user: both must be able to pass through.
        self.directory.chmod(0o755)
        postfix = pwd.getpwnam("postfix")
        postdrop = grp.getgrnam("postdrop").gr_gid
        for name in ("etc", "queue", "data", "mail"):
            (self.directory / name).mkdir(exist_ok=True)
        os.chown(self.directory / "data", postfix.pw_uid, postfix.pw_gid)
        os.chown(self.directory / "mail", MAILBOX_UID, MAILBOX_UID)
        for name, mode in QUEUE_DIRECTORIES.items():
            path = self.queue_directory / name
            path.mkdir(exist_ok=True)
            owner = 0 if name == "pid" else postfix.pw_uid
            os.chown(path, owner, postdrop if name in {"maildrop", "public"} else postfix.pw_gid)
            path.chmod(mode)
        self.socket_directory.mkdir(exist_ok=True)
        # As contrib/postfix/tmpfiles.d makes it: whoever makes a socket here, its group is Postfix's.
        os.chown(self.socket_directory, 0, postfix.pw_gid)
        self.socket_directory.chmod(0o2750)

    def _write_configuration(self) -> None:
        etc = self.directory / "etc"
        milters = self._milter_socket and milter_entry(self._milter_socket, self.queue_directory)
        relay = ", ".join(milter_entry(m, self.queue_directory) for m in self._relay_milters)
        _write(etc / "main.cf", main_cf(self.directory, self._domains, self._routes) + self._main_extra)
        _write(etc / "master.cf", master_cf(self.smtp_port, self.reply_port, milters, relay) + self._master_extra)
        self._write_tables()

    def _write_tables(self) -> None:
        etc = self.directory / "etc"
        boxes = {}
        for address in sorted(self._mailboxes):
            local, _, domain = address.rpartition("@")
            boxes[address] = f"{domain}/{local}/"
        _write(etc / "mailboxes", table(boxes))
        _write(etc / "aliases", table({k: ", ".join(v) for k, v in self._aliases.items()}))
        _write(etc / "transport", table({d: f"smtp:[{h}]:{p}" for d, (h, p) in self._routes.items()}))

    def _start_master(self) -> None:
        self._master = ChildProcess(
            [str(_DAEMONS / "master"), "-s", "-c", str(self.directory / "etc")],
            name="Postfix",
            log=self.log_path,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C", "TZ": "UTC"},
        )
        self._master.start()
        for port in (self.smtp_port, self.reply_port):
            try:
                wait_until(partial(self._greets, port), f"Postfix on port {port}", timeout=10.0)
            except ProcessFault as exc:
                raise ProcessFault(f"{exc}\n{self._master.log_tail()}{self._complaint()}") from exc

    def _greets(self, port: int) -> bool:
        assert self._master is not None
        if not self._master.running:
            raise ProcessFault(f"Postfix ended with status {self._master.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5.0) as client:
            greeting = client.recv(200)
            client.sendall(b"QUIT\r\n")
            return greeting.startswith(b"220 ")
        return False

    def _complaint(self) -> str:
        """What Postfix dislikes about its configuration. The master itself tells only syslog; a command tells us."""
        return self._command("postqueue", "-p").stderr

    def _command(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run one of Postfix's commands on this Postfix."""
        command = [argv[0], "-c", str(self.directory / "etc"), *argv[1:]]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def _stop_master(self) -> None:
        if self._master is not None:
            self._master.stop(timeout=3.0)
            self._master = None


def _delivery_order(path: Path) -> tuple[int, int, str]:
    """Postfix names a maildir file SECONDS.V<dev>I<inode>M<microseconds>.host."""
    found = re.match(r"(\d+)\.V.*M(\d+)\.", path.name)
    return (int(found[1]), int(found[2]), path.name) if found else (0, 0, path.name)


def _is_taken(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _write(path: Path, text: str) -> None:
    """Write a file that looks a minute old: Postfix waits, 0.3 s at a time, for a file changed this very second."""
    path.write_text(text)
    a_minute_ago = time.time() - 60
    os.utime(path, (a_minute_ago, a_minute_ago))
