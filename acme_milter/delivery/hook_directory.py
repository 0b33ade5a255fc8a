# SPDX-License-Identifier: GPL-3.0-or-later
"""A directory for the files of one run of a hook, which is gone afterwards; or, if we were killed, before the next run.

Whoever has made one holds a lock on it (flock(2)), which ends with the process, however that ends. Others can make
directories of our name where they lie, but not open ours, nor put anything in its place: it is opened once, and what is
deleted is what is in the open one.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from acme_milter.delivery.target import DeliveryFailed

PREFIX = "acme-milter-hook-"
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_MAY_WRITE = 0o022


@contextmanager
def hook_directory() -> Iterator[Path]:
    """A new directory, open to nobody else; those that killed workers have left are deleted first.

    Raises DeliveryFailed when it cannot be made, or what is done in it is not possible.
    """
    above = tempfile.gettempdir()
    try:
        with _opened(Path(above)) as parent:
            _sweep(parent)
            place, descriptor = _made(parent, above)
            try:
                yield place
            finally:
                _delete(parent, place.name, descriptor)
                os.close(descriptor)
    except OSError as error:
        raise DeliveryFailed(f"{above}: no files can be made for it: {error.strerror}") from None


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _made(parent: int, above: str) -> tuple[Path, int]:
    """A directory with our lock on it."""
    while True:
        place = Path(tempfile.mkdtemp(prefix=PREFIX, dir=above))
        try:
            descriptor = os.open(place.name, _OPEN, dir_fd=parent)
        except FileNotFoundError:  # another worker has swept between the one and the other
            continue
        if _locked(descriptor) is not False and _is(parent, place.name, descriptor):
            return place, descriptor
        os.close(descriptor)


def _sweep(parent: int) -> None:
    """Delete the directories of those that are no more: there are keys in them."""
    for name in os.listdir(parent):
        if not name.startswith(PREFIX):
            continue
        try:
            descriptor = os.open(name, _OPEN, dir_fd=parent)
        except OSError:  # somebody else's, a link, or just deleted
            continue
        try:
            found = os.fstat(descriptor)
            ours = found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & _OTHERS_MAY_WRITE
            if ours and _locked(descriptor):
                _delete(parent, name, descriptor)
        finally:
            os.close(descriptor)


def _locked(descriptor: int) -> bool | None:
    """Whether the lock is ours now; None on a file system that has none, where nobody can tell, and nobody sweeps."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is(parent: int, name: str, descriptor: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(name, dir_fd=parent, follow_symlinks=False), os.fstat(descriptor))
    return False


def _delete(parent: int, name: str, descriptor: int) -> None:
    """What cannot be deleted now is swept later; it keeps nothing else from being deleted, a key least of all."""
    with contextlib.suppress(OSError):
        for entry in os.listdir(descriptor):
            with contextlib.suppress(OSError):
                if stat.S_ISDIR(os.stat(entry, dir_fd=descriptor, follow_symlinks=False).st_mode):
                    shutil.rmtree(entry, dir_fd=descriptor)  # what a hook has made; it follows no link either
                else:
                    os.unlink(entry, dir_fd=descriptor)
        # Should another one have the name by now, it goes only if it is empty.
        os.rmdir(name, dir_fd=parent)
