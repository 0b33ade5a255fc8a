# SPDX-License-Identifier: GPL-3.0-or-later
"""A few killable children that judge mails, shared by many threads: one job at a time, each with a limit."""

import contextlib
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Self

from acme_milter.program import PATH

WALL_SECONDS = 5.0
# A job that has not begun by then is not worth doing: the mail's sender waits for an answer (8 s in all).
QUEUE_SECONDS = 6.0
MAX_WAITING = 64
MAX_ANSWER = 4096
_PIPE_CHUNK = 65536

_PYTHONS = ("HOME", "PYTHONHOME", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "LD_LIBRARY_PATH")
"""By these an interpreter finds itself and its modules."""


class VerifierLimit(Exception):
    """The arithmetic for this mail was ended for want of CPU or wall time, or its child died of it twice."""

    safe_text = True


class VerifierBusy(Exception):
    """Too many mails wait for arithmetic; trying again later helps."""

    safe_text = True


class _ChildDied(Exception):
    """The child ended before it answered; the return code says whether the CPU limit did it."""

    def __init__(self, return_code: int | None) -> None:
        super().__init__(return_code)
        self.return_code = return_code


@dataclass(frozen=True, slots=True)
class Trade:
    """What a pool's children do: the module they run, its name in words, and whether an answer is all there.

    `eager` has them started before the first job.
    """

    module: str
    name: str
    complete: Callable[[bytes], bool]
    eager: bool


@dataclass(frozen=True, slots=True)
class _Job:
    frame: bytes = field(repr=False)
    give_up_at: float
    answer: Future[bytes]


class ChildPool:
    """`size` children, each with a thread of its own that feeds it and starts it anew when it has died.

    The thread that starts a child lives as long as the pool, because the kernel's parent-death signal (which the
    child asks for) is tied to that thread. Safe to call from any number of threads. `wall_seconds` bounds each job.
    """

    def __init__(self, trade: Trade, size: int, *, wall_seconds: float = WALL_SECONDS) -> None:
        if size < 1:
            raise ValueError("a pool needs at least one child")
        self._trade = trade
        self._jobs: queue.Queue[_Job | None] = queue.Queue(MAX_WAITING)
        self._closed = threading.Event()
        self._lanes = [_Lane(self._jobs, trade, wall_seconds, number) for number in range(size)]

    def ask(self, frame: bytes) -> bytes:
        """A child's answer to a job.

        Raises VerifierLimit when the job was ended after two CPU seconds or five seconds, VerifierBusy when too many
        jobs wait, RuntimeError after close().
        """
        if self._closed.is_set():
            raise RuntimeError("the pool is closed")
        job = _Job(frame, time.monotonic() + QUEUE_SECONDS, Future())
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise VerifierBusy(f"{MAX_WAITING} mails wait for {self._trade.name}") from None
        try:
            return job.answer.result(QUEUE_SECONDS + 2 * WALL_SECONDS)
        except TimeoutError:
            raise VerifierBusy("no child took the mail in time") from None

    def process_ids(self) -> list[int]:
        """The process ids of the children that live now."""
        return [lane.process_id for lane in self._lanes if lane.process_id is not None]

    def close(self) -> None:
        """End all children and threads; jobs still waiting raise VerifierBusy. Calling it again does nothing."""
        if self._closed.is_set():
            return
        self._closed.set()
        with contextlib.suppress(queue.Empty):
            while True:
                _fail_waiting(self._jobs.get_nowait())
        for lane in self._lanes:
            lane.stop()
        for _ in self._lanes:
            self._jobs.put(None)
        for lane in self._lanes:
            lane.thread.join()
        with contextlib.suppress(queue.Empty):
            while True:
                _fail_waiting(self._jobs.get_nowait())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fail_waiting(job: _Job | None) -> None:
    if job is not None:
        job.answer.set_exception(VerifierBusy("the verifier is being closed"))


class _Lane:
    """One thread and its child."""

    def __init__(self, jobs: "queue.Queue[_Job | None]", trade: Trade, wall_seconds: float, number: int) -> None:
        self._jobs = jobs
        self._trade = trade
        self._wall_seconds = wall_seconds
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = False
        name = trade.module.rpartition(".")[2].removesuffix("_child")
        self.thread = threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True)
        self.thread.start()

    @property
    def process_id(self) -> int | None:
        child = self._child
        return None if child is None or child.returncode is not None else child.pid

    def stop(self) -> None:
        """End the child at once; its job, if any, fails."""
        self._stopping = True
        child = self._child
        if child is not None:
            child.kill()

    def _work(self) -> None:
        try:
            if self._trade.eager:
                with contextlib.suppress(OSError):  # no process to be had just now: the first job will ask again
                    self._start()
            while (job := self._jobs.get()) is not None:
                try:
                    job.answer.set_result(self._answer(job))
                except Exception as problem:  # noqa: BLE001 - the thread's edge: the caller of ask() gets it
                    job.answer.set_exception(problem)
        finally:
            self._end()

    def _answer(self, job: _Job) -> bytes:
        trade = self._trade
        if self._stopping or time.monotonic() > job.give_up_at:
            raise VerifierBusy(f"the mail waited too long for {trade.name}")
        for _ in range(2):
            try:
                child = self._start()
            except OSError:
                raise VerifierBusy(f"no process can be started for {trade.name}") from None
            try:
                return _exchange(child, job.frame, time.monotonic() + self._wall_seconds, trade.complete)
            except _ChildDied as death:
                self._end()
                if self._stopping:
                    raise VerifierBusy("the verifier is being closed") from None
                if death.return_code in (-signal.SIGXCPU, None):
                    raise VerifierLimit(f"the {trade.name} took too long") from None
                # Some other hand ended the child, perhaps the kernel's for want of memory: once more, in a new one.
        raise VerifierLimit(f"the {trade.name} ended its process twice")

    def _start(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is None:
            return self._child
        self._end()
        # -P: the directory the worker happens to run in is no place to import from.
        command = [sys.executable, "-P", "-m", self._trade.module]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=_environment())
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        self._child = child
        return child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            pipe.close()


def _environment() -> dict[str, str]:
    # Not ours as it is: secrets may be in it ({env: NAME}), and mails from strangers are read there.
    return {"PATH": PATH, "LANG": "C.UTF-8"} | {name: os.environ[name] for name in _PYTHONS if name in os.environ}


def _exchange(
    child: "subprocess.Popen[bytes]", frame: bytes, deadline: float, complete: Callable[[bytes], bool]
) -> bytes:
    """Write the frame and read the answer; raises _ChildDied, with None as return code when time ran out."""
    assert child.stdin is not None
    assert child.stdout is not None
    inward, outward = child.stdin.fileno(), child.stdout.fileno()
    unsent = memoryview(frame)
    answer = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise _ChildDied(None)
        readable, writable, _ = select.select([outward], [inward] if unsent else [], [], left)
        if readable:
            octets = os.read(outward, MAX_ANSWER)
            answer += octets
            if not octets or len(answer) > MAX_ANSWER:
                child.kill() if octets else None
                raise _ChildDied(child.wait())
            if complete(answer):
                return answer
        elif writable:
            try:
                unsent = unsent[os.write(inward, unsent[:_PIPE_CHUNK]) :]
            except BrokenPipeError:
                raise _ChildDied(child.wait()) from None
