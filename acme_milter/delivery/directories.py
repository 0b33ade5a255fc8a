# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens directories that nobody else can turn aside: from the root on, one below the other, through no symbolic link.

What was checked is what is written to, because each is opened in the one before it, and not by its whole path.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from acme_milter.delivery.target import DeliveryFailed

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PASS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC  # the right to enter it is enough
UNCHANGED = -1  # of chown(2)

_PERMANENT = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
)
"""What stays so until a person does something. A full disk, a server that is away: these pass."""


@dataclass(frozen=True, slots=True)
class Rights:
    """Permission bits, and whose a file shall be; -1 leaves it the worker's."""

    mode: int
    uid: int = UNCHANGED
    gid: int = UNCHANGED

    def directory_mode(self) -> int:
        """For a directory of such files: who may read them may enter it."""
        return 0o700 | (0o050 if self.mode & 0o040 else 0) | (0o005 if self.mode & 0o004 else 0)


def failure(error: OSError, path: str) -> DeliveryFailed:
    """What went wrong with a file, as a failure that says whether it passes."""
    hint = {
        errno.ENOSPC: "; make room, it is tried again",
        errno.EDQUOT: "; make room, it is tried again",
        errno.EACCES: "; give the worker's user the right to write there",
        errno.EROFS: "; mount it for writing, or let the worker's unit write there (ReadWritePaths=)",
    }.get(error.errno or 0, "")
    return DeliveryFailed(f"{path}: {error.strerror or error}{hint}", permanent=error.errno in _PERMANENT)


@contextmanager
def told(path: str) -> Iterator[None]:
    """Faults of the system as a DeliveryFailed about this path."""
    try:
        yield
    except OSError as error:
        raise failure(error, path) from None


def give(descriptor: int, given: Rights, path: str) -> None:
    """Give what is open these rights. Raises DeliveryFailed, OSError."""
    if (given.uid, given.gid) != (UNCHANGED, UNCHANGED):
        try:
            os.fchown(descriptor, given.uid, given.gid)
        except PermissionError:
            text = (
                f"{path}: the worker may not give it to that owner or group; for a group, make its user a member of it"
            )
            raise DeliveryFailed(f"{text}, for an owner give its unit CAP_CHOWN", permanent=True) from None
    os.fchmod(descriptor, given.mode)


def open_fixed(path: Path) -> int:
    """A directory that has to exist, by its absolute path.

    Those above it have to be root's or our own, and no one else may write to them: whoever can rename a directory
    above ours can put another one in its place. A sticky bit keeps others from that, but not from having made what is
    in it. Raises DeliveryFailed, OSError.
    """
    above, below = Path(path.root), path.parts[1:]  # of an absolute path: the configuration has no other
    descriptor = os.open(above, _PASS if below else _OPEN)
    for number, name in enumerate(below):
        last = number == len(below) - 1
        try:
            sticky = _check_above(descriptor, above)
            inside = os.open(name, _OPEN if last else _PASS, dir_fd=descriptor)
        except FileNotFoundError:
            # It may be a file system that is not mounted now, so this passes.
            text = f"{path} does not exist; mount it, or make it with: install -d -m 0750 {path}"
            raise DeliveryFailed(text) from None
        except OSError as error:
            raise _no_directory(error, above / name) from None
        finally:
            os.close(descriptor)
        descriptor, above = inside, above / name
        if last and sticky:
            _check_owner(descriptor, above, close=True)
    return _checked(descriptor, path)


def inside(parent: int, name: str, above: Path) -> int | None:
    """The directory of that name; None where there is none. Raises DeliveryFailed."""
    path = above / name
    try:
        return _checked(os.open(name, _OPEN, dir_fd=parent), path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _no_directory(error, path) from None


def enter(parent: int, name: str, own: Rights | None, above: Path) -> int:
    """The directory of that name, made if it is not there; `own` are the rights of the files in the last one."""
    path = above / name
    found = inside(parent, name, above)
    if found is not None:
        return found
    with contextlib.suppress(FileExistsError):  # another delivery has just made it
        os.mkdir(name, 0o700, dir_fd=parent)
    descriptor = os.open(name, _OPEN, dir_fd=parent)
    try:
        if own is None:
            os.fchmod(descriptor, 0o711)
        else:
            give(descriptor, Rights(own.directory_mode(), own.uid, own.gid), str(path))
        os.fsync(parent)
    except BaseException:  # Ctrl-C included: nothing stays open
        os.close(descriptor)
        raise
    return descriptor


def _check_above(descriptor: int, path: Path) -> bool:
    """Returns whether others may make something in it, kept by its sticky bit from moving what is there."""
    mode = os.fstat(descriptor).st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise _open_to_others(path)
    _check_owner(descriptor, path)
    return bool(mode & stat.S_IWOTH)


def _check_owner(descriptor: int, path: Path, *, close: bool = False) -> None:
    uid = os.fstat(descriptor).st_uid
    if uid not in (0, os.geteuid()):
        if close:
            os.close(descriptor)
        text = f"{path} is user {uid}'s, who could put another directory in its place; run: chown root {path}"
        raise DeliveryFailed(text, permanent=True)


def _checked(descriptor: int, path: Path) -> int:
    if os.fstat(descriptor).st_mode & stat.S_IWOTH:
        os.close(descriptor)
        raise _open_to_others(path)
    return descriptor


def _open_to_others(path: Path) -> DeliveryFailed:
    return DeliveryFailed(f"{path} can be written to by everybody; run: chmod o-w {path}", permanent=True)


def _no_directory(error: OSError, path: Path) -> DeliveryFailed:
    if error.errno not in (errno.ENOTDIR, errno.ELOOP):
        return failure(error, str(path))
    what = "a symbolic link; name the directory itself" if path.is_symlink() else "not a directory; move it away"
    return DeliveryFailed(f"{path} is {what}", permanent=True)
