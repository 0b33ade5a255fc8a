# SPDX-License-Identifier: GPL-3.0-or-later
"""The one way by which a key leaves keyd in clear: into an open file, for writing only, that few can read."""

import fcntl
import os
import stat

from acme_milter.keys.refusal import KeydRefused

_MODES_ALLOWED = 0o640


def check_file(file: int) -> None:
    """Raises KeydRefused for anything but a regular file, opened for writing only, whose mode is 0640 or less and which
    has one name at most: a second one may lie where more people look.
    """
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        raise KeydRefused("not a regular file")
    # O_PATH and O_RDWR fail here too: F_GETFL tells how it was opened, whoever holds a descriptor of it now.
    if fcntl.fcntl(file, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_PATH) != os.O_WRONLY:
        raise KeydRefused("the file is not open for writing only")
    if stat.S_IMODE(found.st_mode) & ~_MODES_ALLOWED:
        raise KeydRefused("the file's mode is more than 0640")
    if found.st_nlink > 1:
        raise KeydRefused("the file has another name besides")


def write_all(file: int, content: bytes) -> None:
    """Write it where the file's position is. Raises OSError."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]
