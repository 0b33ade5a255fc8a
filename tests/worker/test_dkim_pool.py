# SPDX-License-Identifier: GPL-3.0-or-later
"""The pool of children: limits that hold, restarts, many threads, and nothing left behind."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from acme_milter.worker.arithmetic_pool import ArithmeticPool, VerifierBusy, VerifierLimit
from tests.protocol.sample_mail import SignatureSpec, ed25519_key, good_mail, rsa_key

GOOD = good_mail().signed()
RECORD = rsa_key().record()
# dkimpy checks the form of b= by a pattern that takes the square of its blanks; 400 kB would be minutes.
CPU_BOMB = good_mail().signed(SignatureSpec(tags={"b": "A" + " " * 400_000 + "!"}))


@pytest.fixture
def pool() -> Iterator[ArithmeticPool]:
    with ArithmeticPool(1) as made:
        yield made


def test_pool_tells_true_from_false(pool: ArithmeticPool) -> None:
    assert pool.verify(GOOD, 0, RECORD)
    assert not pool.verify(GOOD, 1, RECORD)
    assert not pool.verify(GOOD, 0, rsa_key("other").record())
    assert pool.verify(good_mail().signed(SignatureSpec(key=ed25519_key())), 0, ed25519_key().record())


def test_children_get_no_secret_of_the_workers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAB_KEY", "CANARY")
    monkeypatch.setenv("MAIL_CONFIG", "CANARY")
    with ArithmeticPool(1) as pool:
        assert pool.verify(GOOD, 0, RECORD)
        (process,) = pool.process_ids()
        environment = Path(f"/proc/{process}/environ").read_bytes()
    assert b"LANG=C.UTF-8" in environment.split(b"\0")
    assert b"CANARY" not in environment


def test_cpu_bomb_is_ended_and_the_next_mail_is_verified(pool: ArithmeticPool) -> None:
    started = time.monotonic()
    with pytest.raises(VerifierLimit):
        pool.verify(CPU_BOMB, 0, RECORD)
    assert time.monotonic() - started < 6
    assert pool.verify(GOOD, 0, RECORD)


def test_many_cheap_jobs_never_use_up_the_cpu_limit(pool: ArithmeticPool) -> None:
    """The limit is for each job: the child's processor time adds up, and the limit moves ahead of it."""
    large = (
        good_mail().with_body(b"a  b  c\t d \r\n" * 20_000).signed(SignatureSpec(canonicalization="relaxed/relaxed"))
    )
    assert pool.verify(large, 0, RECORD)
    process = pool.process_ids()
    while _cpu_seconds(process[0]) < 3.5:
        assert pool.verify(large, 0, RECORD)
    assert pool.process_ids() == process


def _cpu_seconds(process: int) -> float:
    times = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


def test_child_that_hangs_is_ended_by_the_wall_limit() -> None:
    with ArithmeticPool(1, wall_seconds=1.5) as pool:
        assert pool.verify(GOOD, 0, RECORD)
        os.kill(pool.process_ids()[0], signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(VerifierLimit):
            pool.verify(good_mail().with_body(b"x" * 250_000).signed(), 0, RECORD)
        assert time.monotonic() - started > 1  # it was given its time, and no clock but that one ended it
        assert pool.verify(GOOD, 0, RECORD)


def test_child_killed_while_idle_is_replaced_unnoticed(pool: ArithmeticPool) -> None:
    for _ in range(3):
        assert pool.verify(GOOD, 0, RECORD)
        os.kill(pool.process_ids()[0], signal.SIGKILL)
    assert pool.verify(GOOD, 0, RECORD)


def test_child_killed_at_work_gets_the_mail_done_by_another(pool: ArithmeticPool) -> None:
    assert pool.verify(GOOD, 0, RECORD)
    first = pool.process_ids()[0]
    os.kill(first, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as executor:
        answer = executor.submit(pool.verify, GOOD, 0, RECORD)
        time.sleep(0.2)
        os.kill(first, signal.SIGKILL)
        assert answer.result()
    assert pool.process_ids() != [first]


def test_sixteen_threads_get_their_own_answers() -> None:
    with ArithmeticPool(2) as pool, ThreadPoolExecutor(16) as executor:
        expected = [number % 3 != 0 for number in range(160)]
        answers = executor.map(lambda good: pool.verify(GOOD if good else GOOD + b"x\r\n", 0, RECORD), expected)
        assert list(answers) == expected
        assert len(set(pool.process_ids())) == 2


def test_more_waiting_mails_than_the_queue_holds_are_told_to_come_later() -> None:
    with ArithmeticPool(1) as pool:
        assert pool.verify(GOOD, 0, RECORD)
        process = pool.process_ids()[0]
        os.kill(process, signal.SIGSTOP)
        with ThreadPoolExecutor(80) as executor:
            answers = [executor.submit(pool.verify, GOOD, 0, RECORD) for _ in range(80)]
            busy = 0
            time.sleep(0.3)
            os.kill(process, signal.SIGCONT)
            for answer in answers:
                try:
                    assert answer.result()
                except VerifierBusy:
                    busy += 1
        assert 1 <= busy <= 16


def test_closing_leaves_no_process_no_thread_and_no_pipe() -> None:
    before_threads, before_files = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    pool = ArithmeticPool(3)
    assert pool.verify(GOOD, 0, RECORD)
    processes = pool.process_ids()
    pool.close()
    pool.close()
    assert threading.active_count() == before_threads
    assert len(list(Path("/proc/self/fd").iterdir())) == before_files
    assert not [process for process in processes if Path(f"/proc/{process}").exists()]
    with pytest.raises(RuntimeError):
        pool.verify(GOOD, 0, RECORD)


def test_closing_at_work_does_not_wait_for_the_mail() -> None:
    pool = ArithmeticPool(1)
    assert pool.verify(GOOD, 0, RECORD)
    with ThreadPoolExecutor(2) as executor:
        answers = [executor.submit(pool.verify, CPU_BOMB, 0, RECORD) for _ in range(2)]
        time.sleep(0.2)
        started = time.monotonic()
        pool.close()
        assert time.monotonic() - started < 1.5
        for answer in answers:
            with pytest.raises(VerifierBusy):
                answer.result()


def test_children_are_started_before_the_first_mail() -> None:
    with ArithmeticPool(2) as pool:
        deadline = time.monotonic() + 10
        while len(pool.process_ids()) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(pool.process_ids()) == 2


def test_pool_used_from_a_thread_that_ends_keeps_its_children() -> None:
    with ArithmeticPool(1) as pool:
        thread = threading.Thread(target=pool.verify, args=(GOOD, 0, RECORD))
        thread.start()
        thread.join()
        processes = pool.process_ids()
        time.sleep(0.1)
        assert pool.verify(GOOD, 0, RECORD)
        assert pool.process_ids() == processes


def test_pool_without_children_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ArithmeticPool(0)


def test_mail_does_not_appear_in_the_process_list(pool: ArithmeticPool) -> None:
    assert pool.verify(GOOD, 0, RECORD)
    listing = Path(f"/proc/{pool.process_ids()[0]}/cmdline").read_text()
    assert "ACME" not in listing
    assert "dkim_child" in listing
