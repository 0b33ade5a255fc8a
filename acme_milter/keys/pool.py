# SPDX-License-Identifier: GPL-3.0-or-later
"""RSA keys made ahead, so that nobody waits for one: 80 ms for RSA-3072, with luck; up to a second without.

OpenSSL makes a key without Python's lock (measured: while RSA-4096 keys were made, another thread never waited more
than 5 ms for it), so a thread is enough. It runs at the lowest priority Linux has for a working thread. Keys in the
pool are nobody's yet: they are in memory only, and a crash loses nothing that anybody was promised.
"""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping

from acme_milter.certificate.csr import MailboxPrivateKey
from acme_milter.keys.algorithm import KeyAlgorithm, generate_key

DEFAULT_SIZES: Mapping[KeyAlgorithm, int] = {KeyAlgorithm.RSA3072: 8}
MAX_SIZE = 1000
_LOWEST_PRIORITY = 19
_REST_AFTER_FAULT = 5.0


class KeyPool:
    """Keeps up to `sizes[algorithm]` keys ready; only RSA keys are worth it, others are made when asked for."""

    def __init__(
        self,
        sizes: Mapping[KeyAlgorithm, int] = DEFAULT_SIZES,
        *,
        on_error: Callable[[Exception], None] | None = None,
    ) -> None:
        for algorithm, size in sizes.items():
            if not algorithm.is_rsa or not 0 <= size <= MAX_SIZE:
                raise ValueError(f"a pool holds 0 to {MAX_SIZE} RSA keys, not {size} of {algorithm.value}")
        self._sizes = dict(sizes)
        self._ready: dict[KeyAlgorithm, deque[MailboxPrivateKey]] = {algorithm: deque() for algorithm in sizes}
        self._wanted = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._on_error = on_error

    def start(self) -> None:
        """Begin to fill in the background."""
        self._thread = threading.Thread(target=self._fill, name="key-pool", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 0.0) -> bool:
        """Make no further key; True when none is being made any more, after at most `timeout` seconds."""
        with self._wanted:
            self._stopping = True
            self._wanted.notify_all()
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def take(self, algorithm: KeyAlgorithm) -> MailboxPrivateKey:
        """A key nobody else gets: one made ahead, else one made now, at the caller's own priority."""
        with self._wanted:
            ready = self._ready.get(algorithm)
            if ready:
                self._wanted.notify()
                return ready.popleft()
        return generate_key(algorithm)

    def ready(self) -> dict[str, int]:
        """How many keys are ready, by algorithm."""
        with self._wanted:
            return {algorithm.value: len(keys) for algorithm, keys in self._ready.items()}

    def _fill(self) -> None:
        # On Linux a thread has a priority of its own (setpriority(2), "C library/kernel differences").
        with contextlib.suppress(OSError):  # a sandbox may forbid it; then the keys are made at full speed
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
        while (algorithm := self._next_wanted()) is not None:
            try:
                key = generate_key(algorithm)
            except Exception as error:  # noqa: BLE001 the edge of a thread; without it the pool would stay empty silently
                if self._on_error is not None:
                    self._on_error(error)
                with self._wanted:
                    self._wanted.wait(_REST_AFTER_FAULT)
                continue
            with self._wanted:
                self._ready[algorithm].append(key)

    def _next_wanted(self) -> KeyAlgorithm | None:
        """The algorithm that lacks the most keys, waiting until one lacks any; None at the stop."""
        with self._wanted:
            while not self._stopping:
                lacking = {algorithm: size - len(self._ready[algorithm]) for algorithm, size in self._sizes.items()}
                neediest = max(lacking, key=lacking.__getitem__, default=None)
                if neediest is not None and lacking[neediest] > 0:
                    return neediest
                self._wanted.wait()
            return None
