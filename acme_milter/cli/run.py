# SPDX-License-Identifier: GPL-3.0-or-later
"""`run`: the three roles on one machine, as three processes that are watched and started again."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import click

from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.exit_codes import ExitCode
from acme_milter.eventlog import Event, configure_logging, log_event, log_exception

ROLES = ("keyd", "worker", "milter")
"""In the order in which they are started; stopped in the opposite one, so that mail is never left half-heard."""

PATIENCE = 8.0
RESTART_PAUSES = (0.2, 1.0, 5.0, 30.0)
"""Seconds before a role that died is started again; the last one repeats while it keeps dying young."""

YOUNG = 30.0


class _Role:
    """One role's process, and how often it died young."""

    def __init__(self, name: str, config_path: Path) -> None:
        self.name = name
        self._argv = [sys.executable, "-m", "acme_milter", "--config", str(config_path), name]
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._early_deaths = 0
        self._starts = 0
        self._start_again_at = 0.0

    def start(self) -> None:
        # setpriv makes the kernel end the role if we are killed: nothing is left behind to hold a socket.
        self._process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *self._argv])
        self._started_at = time.monotonic()
        self._starts += 1

    def look_after(self) -> ExitCode | None:
        """Start the role again when it has died. Returns an exit code when that is pointless."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._start_again_at:
                self._start_again()
            return None
        status = self._process.poll()
        if status is None:
            return None
        self._process = None
        if status == ExitCode.CONFIGURATION and self._starts == 1:
            return ExitCode.CONFIGURATION  # later, somebody is editing the file, and the other roles go on meanwhile
        self._early_deaths = self._early_deaths + 1 if now - self._started_at < YOUNG else 0
        pause = RESTART_PAUSES[min(max(self._early_deaths, 1), len(RESTART_PAUSES)) - 1]
        self._start_again_at = now + pause
        log_event(Event.ROLE_DIED, role=self.name, status=status, again_in=f"{pause:g}s")
        return None

    def _start_again(self) -> None:
        try:
            self.start()
        except OSError as error:  # no process to be had just now; the other roles go on
            log_exception(Event.ROLE_DIED, error, role=self.name)
            self._start_again_at = time.monotonic() + RESTART_PAUSES[-1]

    def hang_up(self) -> None:
        """Have the role read its configuration again; one that is just starting does so anyway."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@click.command()
@click.pass_context
def run(context: click.Context) -> None:
    """Run all three roles on this machine, in the foreground, until SIGTERM or SIGINT.

    After a change of the configuration: acme-milter config check, then SIGHUP. What can only be changed by a restart
    is named in the log.
    """
    config = load_config_or_exit(context)
    configure_logging("run")
    stop, changed = threading.Event(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    signal.signal(signal.SIGHUP, lambda *_: changed.set())
    roles = [_Role(name, config.path) for name in ROLES]
    for role in roles:
        role.start()
    failed: ExitCode | None = None
    while not stop.wait(0.1) and failed is None:
        if changed.is_set():
            changed.clear()
            next(role for role in roles if role.name == "worker").hang_up()
        failed = next((code for role in roles if (code := role.look_after()) is not None), None)
    for role in reversed(roles):
        role.stop()
    context.exit(failed or ExitCode.OK)
