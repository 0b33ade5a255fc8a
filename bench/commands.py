# SPDX-License-Identifier: GPL-3.0-or-later
"""What an administrator waits for at an organization of 100 000 mailboxes: a plan, and the commands that look."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import yaml

from acme_milter.lab.processes import ChildProcess, wait_until
from acme_milter.store.database import Database
from bench.milter_cost import Measure
from bench.organization import address_of, fill, has_been_read

MAILBOXES = 100_000
DOMAINS = ("org.example", "org.test", "sales.org.example")
REPETITIONS = 7
ANSWER_TARGET_MS = 300.0
PLAN_TARGET_S = 10.0
PLAN_TARGET_MB = 300.0


def measure(count: int = MAILBOXES) -> Iterator[Measure]:
    """Plan and look at a store of ``count`` mailboxes, with a worker running as in real life."""
    someone = address_of(count // 2, DOMAINS)
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch, _organization(Path(scratch), count) as config:
        seconds, megabytes = _plan(config, Path(scratch) / "plan.json")
        yield Measure("bulk plan --expiring", seconds, "s", PLAN_TARGET_S)
        yield Measure("bulk plan --expiring, memory", megabytes, "MB", PLAN_TARGET_MB)
        for words in (("config", "explain", someone), ("mailbox", "show", someone), ("status",)):
            taken = [_seconds(config, words) for _ in range(REPETITIONS + 1)][1:]
            yield Measure(" ".join(words[:2]), statistics.median(taken) * 1000, "ms", ANSWER_TARGET_MS)


def _command(config: Path, words: Sequence[str]) -> list[str]:
    return [str(Path(sys.executable).with_name("acme-milter")), "--config", str(config), *words]


def _seconds(config: Path, words: Sequence[str]) -> float:
    began = time.monotonic()
    subprocess.run(_command(config, words), stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - began


def _plan(config: Path, plan: Path) -> tuple[float, float]:
    """Seconds and the largest resident size in MB."""
    began = time.monotonic()
    words = _command(config, ["bulk", "plan", "--expiring", "400d", "-o", str(plan)])
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"bulk plan ended with {process.returncode}")
    return time.monotonic() - began, used.ru_maxrss / 1024


@contextmanager
def _organization(directory: Path, count: int) -> Iterator[Path]:
    """A store with ``count`` mailboxes and certificates, its source, and a keyd and a worker that run on them."""
    source = directory / "staff.csv"
    source.write_text(
        "address,id\n" + "".join(f"{address_of(number, DOMAINS)},{number}\n" for number in range(count)),
        encoding="utf-8",
    )
    config = directory / "acme-milter.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "version": 1,
                "store": {"url": f"sqlite:///{directory / 'store.db'}"},
                "worker": {
                    "intake_socket": str(directory / "intake.sock"),
                    "control_socket": str(directory / "control.sock"),
                },
                "keys": {
                    "wrapping_key": {"file": str(directory / "wrapping.key")},
                    "socket": str(directory / "keyd.sock"),
                },
                # Nobody listens there, and in observe mode nobody is asked.
                "authorities": {"ca": {"directory": "https://127.0.0.1:9/", "agree_tos": True, "use_ari": False}},
                "sources": {"staff": {"type": "csv", "path": str(source)}},
                "defaults": {"mode": "observe"},
                "domains": {domain: {"source": "staff"} for domain in DOMAINS},
            }
        ),
        encoding="utf-8",
    )
    config.chmod(0o600)
    database = Database(f"sqlite:///{directory / 'store.db'}")
    database.upgrade()
    fill(database, mailboxes=count, now=datetime.now(UTC), domains=DOMAINS, source="staff", authority="ca")
    roles = [
        ChildProcess(_command(config, [name]), log=directory / f"{name}.log", name=name) for name in ("keyd", "worker")
    ]
    for role in roles:
        role.start()
    try:
        wait_until(lambda: has_been_read(database, "staff"), "the worker to have read its source", timeout=120)
        yield config
    finally:
        for role in reversed(roles):
            role.stop()
        database.close()
