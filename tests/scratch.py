# SPDX-License-Identifier: GPL-3.0-or-later
"""Directories for tests that pytest's own do not suit."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """A directory that other users may pass through, with a short path, since a unix socket's has room for 107 octets;
    gone at the end, also where what was to be built in it did not come to stand.
    """
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as made:
        directory = Path(made)
        directory.chmod(0o755)
        yield directory
