# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole way on this machine: how fast one challenge is answered, how many mailboxes are enrolled a second.

Everything runs here: test CA, name servers, Postfix with both its queues, DKIM both ways, acme-milter's three roles.
"""

import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from acme_milter.cli.enroll import ask_for, follow
from acme_milter.cli.progress import PlainView
from acme_milter.lab.processes import ProcessFault
from acme_milter.lab.system import Lab
from acme_milter.store.schema import challenge_mail, enrollment, outbox

MAILBOXES = 200
_TICKS = os.sysconf("SC_CLK_TCK")

ROLE_OF = {
    "acme_milter.testca": "test CA",
    "keyd": "keyd",
    "worker": "worker",
    "dkim_child": "DKIM children",
    "milter": "milter",
    "run": "supervisor",
}


@dataclass(frozen=True, slots=True)
class WholeWay:
    """Figures of one run of ``count`` enrollments; times in seconds."""

    count: int
    seconds: float
    answer_times: tuple[float, ...]
    cpu: Mapping[str, float]

    @property
    def per_second(self) -> float:
        return self.count / self.seconds

    @property
    def median_answer(self) -> float:
        """From the challenge mail's SMTP transaction to the reply's queue id."""
        return statistics.median(self.answer_times)


def measure(count: int = MAILBOXES, *, paced: bool = False) -> WholeWay:
    """Enroll ``count`` mailboxes with P-256 keys, no chaos; ``paced``: one at a time, so that nothing queues."""
    with tempfile.TemporaryDirectory(prefix="acme-milter-bench-") as scratch:
        directory = Path(scratch)
        directory.chmod(0o755)
        domains = {"org.example": [f"user{number}" for number in range(count)]}
        with Lab(directory, domains=domains, reply_dkim="own") as lab:
            _enroll(lab, lab.addresses[:1])  # the account, the connections, the children: paid for once
            addresses = lab.addresses[1:]
            before = _cpu_seconds()
            began = time.monotonic()
            for batch in [[address] for address in addresses] if paced else [addresses]:
                _enroll(lab, batch)
            seconds = time.monotonic() - began
            cpu = {name: used - before.get(name, 0.0) for name, used in _cpu_seconds().items()}
            _check(lab, len(addresses))
            return WholeWay(len(addresses), seconds, _answer_times(lab), cpu)


def _enroll(lab: Lab, addresses: list[str]) -> None:
    """As `enroll --wait` does, without the start of a process for each call."""
    ids = [str(result["id"]) for result in ask_for(lab.config, addresses, again=False)]
    follow(lab.config, ids, PlainView(quiet=True), timeout=300)


def _check(lab: Lab, wanted: int) -> None:
    active = lab.status()["stages"]["issued"]
    if active < wanted:
        raise ProcessFault(f"only {active} of {wanted} mailboxes got a certificate\n{lab.roles.log_tail(30)}")


def _answer_times(lab: Lab) -> tuple[float, ...]:
    """For each challenge: from the begin of its SMTP transaction (the CA's record) to the reply's queue id (ours)."""
    began = {}
    for event in lab.authority.history("mail-sent"):
        ended_at = datetime.fromisoformat(event["time"]).timestamp()
        began[event["recipients"][0]] = ended_at - float(event["seconds"])
    engine = sa.create_engine(lab.config.store.url)
    with engine.connect() as connection:
        rows = connection.execute(
            sa.select(enrollment.c.address, outbox.c.sent_at)
            .join(challenge_mail, challenge_mail.c.enrollment_id == enrollment.c.id)
            .join(outbox, outbox.c.challenge_mail_id == challenge_mail.c.id)
        ).all()
    engine.dispose()
    return tuple(row.sent_at.timestamp() - began[row.address] for row in rows)


def _cpu_seconds() -> dict[str, float]:
    """CPU seconds used so far by our own descendants, by what they are."""
    stats: dict[int, list[str]] = {}
    words: dict[int, list[str]] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):  # it may end while we look
                stats[int(process.name)] = (process / "stat").read_text().rsplit(")", 1)[1].split()
                words[int(process.name)] = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    used: dict[str, float] = {}
    for number, argv in words.items():
        name = _name(argv)
        if name is not None and _descends_from_us(number, stats):
            # utime, stime, and those of children that have ended and been waited for (proc(5))
            used[name] = used.get(name, 0.0) + sum(int(ticks) for ticks in stats[number][11:15]) / _TICKS
    return used


def _descends_from_us(number: int, stats: Mapping[int, list[str]]) -> bool:
    while number in stats:
        number = int(stats[number][1])
        if number == os.getpid():
            return True
    return False


def _name(words: list[str]) -> str | None:
    program = Path(words[0]).name if words else ""
    if program in {"master", "smtpd", "cleanup", "qmgr", "smtp", "virtual", "trivial-rewrite", "proxymap"}:
        return "Postfix"
    for word in words:
        for key, name in ROLE_OF.items():
            if word == key or word.endswith(f".{key}"):
                return name
    return None


if __name__ == "__main__":
    found = measure(int(sys.argv[1]) if len(sys.argv) > 1 else MAILBOXES)
    print(f"{found.count} mailboxes in {found.seconds:.1f} s: {found.per_second:.1f} a second")
    print(f"median answer {found.median_answer * 1000:.0f} ms")
    for part, seconds in sorted(found.cpu.items(), key=lambda item: -item[1]):
        print(f"  {part:<14}{seconds / found.count * 1000:6.1f} ms CPU a mailbox")
