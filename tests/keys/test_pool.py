# SPDX-License-Identifier: GPL-3.0-or-later
"""The pool of RSA keys: bounded, in the background, and never something to wait for."""

import os
import threading
import time
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from acme_milter.keys.algorithm import KeyAlgorithm, generate_key
from acme_milter.keys.pool import KeyPool

R2048 = KeyAlgorithm.RSA2048


def _until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_pool_fills_to_its_size_and_no_further() -> None:
    pool = KeyPool({R2048: 2})
    pool.start()
    _until(lambda: pool.ready() == {"rsa2048": 2})
    time.sleep(0.3)
    assert pool.ready() == {"rsa2048": 2}
    assert pool.stop(timeout=10)


def test_a_key_is_given_once_and_its_place_filled_again() -> None:
    pool = KeyPool({R2048: 1})
    pool.start()
    _until(lambda: pool.ready() == {"rsa2048": 1})
    first = pool.take(R2048)
    _until(lambda: pool.ready() == {"rsa2048": 1})
    second = pool.take(R2048)
    assert first.private_numbers() != second.private_numbers()
    assert pool.stop(timeout=10)


def test_an_empty_pool_makes_a_key_at_once() -> None:
    pool = KeyPool({R2048: 1})  # never started
    assert isinstance(pool.take(R2048), rsa.RSAPrivateKey)
    assert pool.stop()


def test_an_algorithm_without_a_pool_is_made_when_asked_for() -> None:
    assert KeyPool({}).take(R2048).key_size == 2048


@pytest.mark.parametrize("sizes", [{KeyAlgorithm.P256: 1}, {R2048: -1}, {R2048: 1001}])
def test_a_pool_that_makes_no_sense_is_refused(sizes: dict[KeyAlgorithm, int]) -> None:
    with pytest.raises(ValueError, match="pool"):
        KeyPool(sizes)


def test_the_filling_thread_has_the_lowest_priority_and_ours_keeps_its_own() -> None:
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    pool = KeyPool({R2048: 4})
    pool.start()
    assert pool._thread is not None
    native_id = pool._thread.native_id
    assert native_id is not None
    _until(lambda: os.getpriority(os.PRIO_PROCESS, native_id) == 19)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
    assert pool.stop(timeout=10)


def test_a_stopped_pool_ends_its_thread_though_it_was_waiting() -> None:
    pool = KeyPool({R2048: 0})
    pool.start()
    time.sleep(0.05)
    assert pool.stop(timeout=10)


def test_making_an_rsa_key_leaves_other_threads_running() -> None:
    """Were Python's lock held meanwhile, this thread would count once a key instead of thousands of times."""
    done = threading.Event()

    def make() -> None:
        for _ in range(3):
            generate_key(KeyAlgorithm.RSA3072)
        done.set()

    thread = threading.Thread(target=make)
    thread.start()
    turns = 0
    while not done.is_set():
        turns += 1
    thread.join()
    assert turns > 1000
