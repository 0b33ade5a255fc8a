# SPDX-License-Identifier: GPL-3.0-or-later
"""A private, real PostgreSQL: its own cluster in one directory, on a free loopback port, asking for passwords."""

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Self

from acme_milter.lab.processes import ChildProcess, ProcessFault, free_port, wait_until

OWNER = "lab"
PASSWORD = "lab-owner"  # noqa: S105 -- of a server that lives as long as its test
_USER = "postgres"  # PostgreSQL refuses to run as root
_VERSIONS = Path("/usr/lib/postgresql")
_READY = "database system is ready to accept connections"
_START_TIMEOUT = 30.0

# Nothing here is to survive a power cut, and several of these servers share a machine.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum": "off",
    "jit": "off",
    "shared_buffers": "16MB",
    "dynamic_shared_memory_type": "mmap",
    "max_connections": "120",
    "log_min_messages": "warning",
}


class PostgresLab:
    """One PostgreSQL server. ``directory`` must be new and where the user postgres may pass; `remove` deletes it.

    Its superuser is OWNER with PASSWORD. `make_database` gives each test one of its own.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = 0
        self._data = directory / "data"
        self._numbers = itertools.count(1)
        self._server: ChildProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def start(self) -> None:
        """Make the cluster at the first start, and return when it takes connections; raises ProcessFault."""
        if not self._data.exists():
            self._make_cluster()
        self.port = self.port or free_port()
        settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        log = self.directory / "postgresql.log"
        readies = _count(log, _READY)
        self._server = ChildProcess(
            # PR_SET_PDEATHSIG does not outlive a change of user, so that it is asked for again after the change.
            [*_as_postgres(), str(_programs() / "postgres"), "-D", str(self._data), "-p", str(self.port), *settings],
            name="PostgreSQL",
            log=log,
            cwd=self._data,
        )
        self._server.start()
        wait_until(
            lambda: _count(log, _READY) > readies or not self._running, "PostgreSQL to start", timeout=_START_TIMEOUT
        )
        if not self._running:
            raise ProcessFault(f"PostgreSQL did not start\n{self._server.log_tail()}")

    def stop(self) -> None:
        """End it as its service would (a fast shutdown); what is in it stays."""
        if self._server is None or not self._running:
            return
        # They lead sessions of their own, out of ChildProcess's reach, and one that was frozen would outlive us.
        children = self.children()
        self.thaw()
        self._server.signal(signal.SIGINT)
        with contextlib.suppress(ProcessFault):
            self._server.wait(10.0)
        self._server.stop()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def children(self) -> list[int]:
        """Process ids of the server's own processes, one for each connection among them."""
        if self._server is None:
            return []
        found = subprocess.run(["pgrep", "-P", str(self._server.pid)], capture_output=True, text=True, check=False)
        return [int(pid) for pid in found.stdout.split()]

    def thaw(self) -> None:
        """Let every process go on that a test has stopped."""
        for pid in self.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def remove(self) -> None:
        """Stop it and delete everything."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def url(self, database: str = "postgres", user: str = OWNER, password: str = PASSWORD) -> str:
        """SQLAlchemy's URL of a database of this server."""
        return f"postgresql+psycopg://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def make_database(self, template: str = "template0") -> str:
        """A new database, empty or a copy of another one of this server that nobody uses just now; its URL."""
        name = f"db{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Delete a database, whoever is still connected to it."""
        self.execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    def execute(self, statements: str, url: str | None = None) -> None:
        """Run SQL in the database at ``url``, as the superuser by default, and outside any transaction."""
        import psycopg

        plain = (url or self.url()).replace("+psycopg", "")
        with psycopg.connect(plain, autocommit=True) as connection:
            connection.execute(statements.encode())

    @property
    def _running(self) -> bool:
        return self._server is not None and self._server.running

    def _make_cluster(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o755)
        self._data.mkdir(mode=0o700)
        password = self.directory / "password"
        password.touch(mode=0o600)
        password.write_text(PASSWORD)
        if os.getuid() == 0:
            postgres = pwd.getpwnam(_USER)
            for path in (self._data, password):
                os.chown(path, postgres.pw_uid, postgres.pw_gid)
        arguments = ["--username", OWNER, "--pwfile", str(password), "--auth", "scram-sha-256"]
        arguments += ["--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync", "--no-instructions"]
        done = subprocess.run(
            [*_as_postgres(), str(_programs() / "initdb"), "-D", str(self._data), *arguments],
            cwd=self._data, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise ProcessFault(f"initdb ended with {done.returncode}: {done.stdout}{done.stderr}")


def _as_postgres() -> list[str]:
    if os.getuid() != 0:
        return []
    return ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--init-groups", "--pdeathsig", "KILL", "--"]


def _programs() -> Path:
    """Debian keeps each major version's programs apart, and off the PATH."""
    found = sorted(_VERSIONS.glob("*/bin"), key=lambda path: int(path.parent.name))
    if not found:
        raise ProcessFault("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    return found[-1]


def _count(log: Path, text: str) -> int:
    return log.read_text(errors="replace").count(text) if log.exists() else 0
