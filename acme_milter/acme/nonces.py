# SPDX-License-Identifier: GPL-3.0-or-later
"""Anti-replay nonces (RFC 8555 §6.5): a bounded pool fed by every answer."""

import re
import threading
from collections import deque

_NONCE = re.compile(r"[A-Za-z0-9_-]{1,1024}", re.ASCII)


def valid_nonce(value: str | None) -> str | None:
    """The value of a Replay-Nonce field, or None when it is absent or not base64url.

    RFC 8555 §6.5.1: "clients MUST ignore invalid Replay-Nonce values".
    """
    return value if value is not None and _NONCE.fullmatch(value) else None


class NoncePool:
    """Unused nonces, newest first (old ones expire at the server). Thread-safe; each is handed out once."""

    def __init__(self, capacity: int) -> None:
        """Keep at most `capacity` nonces; the oldest fall out."""
        self._lock = threading.Lock()
        self._unused: deque[str] = deque(maxlen=capacity)

    def put(self, nonce: str) -> None:
        """Add a valid nonce."""
        with self._lock:
            self._unused.append(nonce)

    def take(self) -> str | None:
        """Remove and return the newest nonce, or None."""
        with self._lock:
            return self._unused.pop() if self._unused else None

    def __len__(self) -> int:
        return len(self._unused)
