# SPDX-License-Identifier: GPL-3.0-or-later
"""What our milter costs an ordinary mail, beside the least that a milter written in C costs it.

Both serve the raw milter protocol on a unix socket to ten connections at a time with one message each: 24 headers, one
recipient that is not managed. Ours is the real `acme-milter milter` process. The figure is the processor time of the
milter process (user and system) a message; it is steadier than messages a second on a machine that others use too.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from acme_milter.ipc.server import FrameServer
from acme_milter.keys.wrapping_key import create_wrapping_key_file
from acme_milter.lab.processes import ChildProcess, ProcessFault, wait_until

ROUNDS = 5
MESSAGES = 20_000
CONCURRENCY = 10
TARGET = 1.3
RECIPIENT = "nobody@org.example"
MANAGED = 5000
_HERE = Path(__file__).resolve().parent
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure: `value` in `unit`, and the most it should be, if there is a target."""

    name: str
    value: float
    unit: str
    target: float | None = None

    @property
    def met(self) -> bool:
        """Whether the target is met; True without one."""
        return self.target is None or self.value <= self.target


def measure(*, rounds: int = ROUNDS, messages: int = MESSAGES) -> list[Measure]:
    """Both milters' processor time a message (median of interleaved rounds) and their ratio. Raises ProcessFault."""
    with tempfile.TemporaryDirectory(prefix="acme-milter-bench-") as scratch:
        directory = Path(scratch)
        load, floor = _compile("milter_load", directory), _compile("floor_milter", directory)
        ours: list[float] = []
        theirs: list[float] = []
        pinned: list[float] = []
        with (
            _floor(floor, directory, "floor") as floor_at,
            _floor(floor, directory, "pinned", cpu=max(os.sched_getaffinity(0))) as pinned_at,
            _ours(directory) as ours_at,
        ):
            variants = [(floor_at, theirs), (pinned_at, pinned), (ours_at, ours)]
            for at, _ in variants:
                _run(load, *at, messages // 10)  # warm up
            for number in range(rounds):
                for at, figures in variants if number % 2 else reversed(variants):
                    figures.append(_run(load, *at, messages))
    our_cost, floor_cost, pinned_cost = (statistics.median(figures) for figures in (ours, theirs, pinned))
    return [
        Measure("C libmilter milter, ACCEPT at DATA: processor time per ordinary mail", floor_cost, "µs"),
        Measure("acme-milter: processor time per ordinary mail", our_cost, "µs"),
        Measure("acme-milter / C floor", our_cost / floor_cost, "x", TARGET),
        # Nobody pins a C milter, but whoever did would make it cheaper too: so that the ratio above hides nothing.
        Measure("acme-milter / C floor pinned to one processor as ours is", our_cost / pinned_cost, "x"),
    ]


def _compile(name: str, directory: Path) -> Path:
    binary = directory / name
    libraries = ["-lmilter"] if name == "floor_milter" else []
    command = ["cc", "-O2", "-o", str(binary), str(_HERE / f"{name}.c"), "-pthread", *libraries]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ProcessFault(f"{name}.c does not compile (gcc and libmilter-dev are needed):\n{done.stderr}")
    return binary


@contextmanager
def _floor(binary: Path, directory: Path, name: str, cpu: int | None = None) -> Iterator[tuple[int, Path]]:
    path = directory / f"{name}.sock"
    pin = [] if cpu is None else ["taskset", "--cpu-list", str(cpu)]
    process = ChildProcess([*pin, str(binary), f"unix:{path}"], name=name, log=directory / f"{name}.log")
    with _running(process, path):
        yield process.pid, path


@contextmanager
def _ours(directory: Path) -> Iterator[tuple[int, Path]]:
    """The real role, and a worker's socket that says who is managed."""
    path, intake, config = directory / "ours.sock", directory / "intake.sock", directory / "acme-milter.yaml"
    create_wrapping_key_file(directory / "wrapping.key")
    config.write_text(
        f"""\
version: 1
milter: {{socket: "unix:{path}"}}
worker: {{intake_socket: {intake}, control_socket: {directory / "control.sock"}}}
keys: {{wrapping_key: {{file: {directory / "wrapping.key"}}}, socket: {directory / "keyd.sock"}}}
authorities: {{ca: {{directory: "https://ca.invalid/directory", contact: [postmaster@org.example], agree_tos: true}}}}
domains: {{org.example: {{mailboxes: {{list: [user@org.example]}}}}}}
"""
    )
    config.chmod(0o600)
    managed = "\n".join(f"user{number}@org.example" for number in range(MANAGED)).encode()

    def handle(header: dict[str, object], _body: bytes) -> tuple[dict[str, object], bytes]:
        if header.get("known") == "1":
            return {"version": "1", "unchanged": True}, b""
        return {"version": "1", "page": 0, "pages": 1}, managed

    argv = [sys.executable, "-m", "acme_milter", "--config", str(config), "milter"]
    process = ChildProcess(argv, name="acme-milter milter", log=directory / "ours.log", cwd=_HERE.parent)
    with FrameServer(intake, 0o600, handle, threads=2), _running(process, path):
        yield process.pid, path


@contextmanager
def _running(process: ChildProcess, path: Path) -> Iterator[None]:
    process.start()
    try:
        try:
            wait_until(path.exists, f"{process.name}'s socket", timeout=20)
        except ProcessFault as fault:
            raise ProcessFault(f"{fault}\n{process.log_tail()}") from None
        yield
    finally:
        process.kill()


def _run(load: Path, pid: int, path: Path, messages: int) -> float:
    """Microseconds of processor time that the milter took for each message."""
    before = _processor_seconds(pid)
    argv = [str(load), str(path), str(messages), str(CONCURRENCY), RECIPIENT]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise ProcessFault(f"the load generator failed: {done.stderr}")
    at_data = int(done.stdout.split()[2])
    if at_data != messages:
        raise ProcessFault(f"only {at_data} of {messages} messages were accepted at DATA")
    return (_processor_seconds(pid) - before) / messages * 1e6


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def main() -> int:
    """Print the figures; 0 when the target is met."""
    measures = measure()
    for figure in measures:
        target = "" if figure.target is None else f"   (target: at most {figure.target:g})"
        print(f"{figure.name}: {figure.value:.2f} {figure.unit}{target}")
    return 0 if all(figure.met for figure in measures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
