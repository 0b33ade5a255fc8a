# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes turns with other processes by a lock on a file that no other user can open.

A lock on the directory itself (flock(2)) would be anybody's to take who may read the directory.
"""

import contextlib
import fcntl
import os
import stat
import time
from pathlib import Path

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PAUSE = 0.02


class LockHeld(Exception):
    """Another process has the lock, and keeps it for longer than it was waited for."""

    safe_text = True


class LockUnsafe(Exception):
    """What has the lock's name is no file of ours alone; the text says what to do."""

    safe_text = True


def locked_file(directory: int, path: Path, seconds: float) -> int:
    """A descriptor of the file in the open directory, made if it is not there, with the lock on it; closing it ends the
    lock. `seconds` is how long another holder is waited for. Raises LockHeld, LockUnsafe, OSError.
    """
    give_up = time.monotonic() + seconds
    while True:
        file = _own_file(directory, path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Somebody may have tidied it away meanwhile: then the next one would lock another file.
            if _is_there(directory, path.name, file):
                return file
        except BlockingIOError:
            pass
        except BaseException:  # Ctrl-C included: nothing stays open
            os.close(file)
            raise
        os.close(file)
        if time.monotonic() > give_up:
            raise LockHeld(f"{path} is locked by another process")
        time.sleep(_PAUSE)


def _own_file(directory: int, path: Path) -> int:
    try:
        file = os.open(path.name, _FLAGS, 0o600, dir_fd=directory)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            _check(os.stat(path.name, dir_fd=directory, follow_symlinks=False), path)
        raise
    try:
        _check(os.fstat(file), path)
    except BaseException:  # Ctrl-C included: nothing stays open
        os.close(file)
        raise
    return file


def _check(found: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        what = "is not a file"
    elif found.st_uid != os.geteuid():
        what = f"is user {found.st_uid}'s, who could keep it locked"
    elif found.st_mode & 0o077:
        what = "is open to others, who could keep it locked"
    else:
        return
    raise LockUnsafe(f"{path} {what}; remove it")


def _is_there(directory: int, name: str, file: int) -> bool:
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(file))
