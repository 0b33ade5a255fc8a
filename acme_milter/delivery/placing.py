# SPDX-License-Identifier: GPL-3.0-or-later
"""Places files whole or not at all, with their owner, group and mode, in directories that nobody else can turn aside.

A file is written under another name in the directory it is meant for, synced, given its rights, and renamed; so is
every other file of the same delivery before the first of them gets its name. Directories are opened one below the
other and never followed through a symbolic link, so what was checked is what is written to.
"""

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from acme_milter.delivery.target import DeliveryFailed
from acme_milter.keys.clear_file import write_all

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_UNCHANGED = -1  # of chown(2)
_NUMBER_DIGITS = 9
_LOCK_PAUSE = 0.02

_PERMANENT = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
)
"""What stays so until a person does something. A full disk, a server that is away: these pass."""


@dataclass(frozen=True, slots=True)
class Rights:
    """Permission bits, and whose a file shall be; -1 leaves it the worker's."""

    mode: int
    uid: int = _UNCHANGED
    gid: int = _UNCHANGED

    def directory_mode(self) -> int:
        """For a directory of such files: who may read them may enter it."""
        return 0o700 | (0o050 if self.mode & 0o040 else 0) | (0o005 if self.mode & 0o004 else 0)


def rights(mode: int, owner: str | None, group: str | None) -> Rights:
    """Names looked up now, not at the start: a user may be made later. Raises DeliveryFailed when there is none."""
    uid = _number(owner, "user", lambda name: pwd.getpwnam(name).pw_uid)
    return Rights(mode, uid, _number(group, "group", lambda name: grp.getgrnam(name).gr_gid))


def _number(name: str | None, what: str, look_up: Callable[[str], int]) -> int:
    if name is None:
        return _UNCHANGED
    if name.isdecimal() and len(name) <= _NUMBER_DIGITS:
        return int(name)
    try:
        return look_up(name)
    except KeyError:
        text = f"there is no {what} {name} on this machine; make it, or name another in the configuration"
        raise DeliveryFailed(text, permanent=True) from None


def rights_kept(found: os.stat_result) -> Rights:
    """A file that an administrator has made stays whose it is, as far as we may say so."""
    mode = stat.S_IMODE(found.st_mode) & 0o777
    return Rights(mode, found.st_uid, found.st_gid) if os.geteuid() == 0 else Rights(mode, gid=found.st_gid)


def encoded(part: str) -> str:
    """A part of an address as part of a file name: what is no letter, digit or one of -._~@+= is percent-encoded, and
    so is a dot or dash at the beginning. Two addresses never give one name.
    """
    name = quote(part, safe="@+=~")
    return f"%{ord(name[0]):02X}{name[1:]}" if name.startswith((".", "-")) else name


def filled(template: str, address: str) -> str:
    """A path template's placeholders replaced."""
    local, _, domain = address.rpartition("@")
    for name, value in (("{address}", address), ("{local}", local), ("{domain}", domain)):
        template = template.replace(name, encoded(value))
    return template


def directory_of(template: str, address: str) -> tuple[Path, list[str]]:
    """A path template cut before the first placeholder: what has to exist, and what is the mailbox's own."""
    parts = Path(template).parts
    first = next((number for number, part in enumerate(parts) if "{" in part), len(parts))
    return Path(*parts[:first]), [filled(part, address) for part in parts[first:]]


class Place:
    """An open directory, and the files that wait in it for their names."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._staged: dict[str, str] = {}

    def stage(self, name: str, rights: Rights, content: bytes | Callable[[int], None]) -> None:
        """Prepare a file: its octets, or what writes them into a descriptor that is open for writing only."""
        part = f".{name}.part"
        with _told(f"{self.path}/{name}"):
            if self.is_directory(name):
                raise DeliveryFailed(f"{self.path}/{name} is a directory; move it away", permanent=True)
            with contextlib.suppress(FileNotFoundError):  # what a crash has left
                os.unlink(part, dir_fd=self._descriptor)
            file = os.open(part, _NEW_FILE, 0o600, dir_fd=self._descriptor)
            self._staged[name] = part
            try:
                if callable(content):
                    content(file)
                else:
                    write_all(file, content)
                _give(file, rights, f"{self.path}/{name}")
                os.fsync(file)
            finally:
                os.close(file)

    def commit(self) -> None:
        """Give each file its name, replacing what had it, and sync the directory."""
        for name, part in list(self._staged.items()):
            with _told(f"{self.path}/{name}"):
                os.rename(part, name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
            del self._staged[name]
        with _told(str(self.path)):
            os.fsync(self._descriptor)

    def discard(self) -> None:
        """Remove what has not got its name."""
        for part in self._staged.values():
            with contextlib.suppress(OSError):
                os.unlink(part, dir_fd=self._descriptor)
        self._staged.clear()

    def remove(self, name: str) -> None:
        """Remove a file that is of no use any more, if there is one."""
        with _told(f"{self.path}/{name}"), contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._descriptor)

    def read(self, name: str, limit: int) -> tuple[bytes, os.stat_result] | None:
        """A regular file's content and what the system says of it; None where there is none."""
        with _told(f"{self.path}/{name}"):
            try:
                file = os.open(name, _READ_FILE, dir_fd=self._descriptor)
            except FileNotFoundError:
                return None
            with os.fdopen(file, "rb") as stream:
                found = os.fstat(file)
                if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
                    raise DeliveryFailed(f"{self.path}/{name} is no file of at most {limit} octets", permanent=True)
                return stream.read(limit), found

    def is_directory(self, name: str) -> bool:
        """Whether a directory has that name."""
        try:
            return stat.S_ISDIR(os.stat(name, dir_fd=self._descriptor, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False

    def identity(self) -> tuple[int, int]:
        """What one directory has in common under whatever paths."""
        found = os.fstat(self._descriptor)
        return found.st_dev, found.st_ino

    def lock(self, seconds: float) -> None:
        """Keep other deliveries, of other processes too, from this directory until it is left."""
        give_up = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise DeliveryFailed(f"{self.path} is locked by another delivery") from None
                time.sleep(_LOCK_PAUSE)
            else:
                return


@contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise failure(error, path) from None


@contextmanager
def placing(fixed: Path, own: Sequence[str], given: Rights) -> Iterator[Place]:
    """The directory `own` below `fixed`, for files with the rights `given`. What is not committed when it is left, is
    removed.

    `fixed` has to exist. What follows is made: the last one, which is the mailbox's own, with the rights of its files,
    those above it with mode 0711. Raises DeliveryFailed.
    """
    path = fixed.joinpath(*own)
    with _told(str(path)):
        descriptor = _open_fixed(fixed)
    try:
        for number, name in enumerate(own):
            last = number == len(own) - 1
            with _told(str(path)):
                below = _enter(descriptor, name, given if last else None, fixed.joinpath(*own[:number]))
            os.close(descriptor)
            descriptor = below
        place = Place(path, descriptor)
        try:
            yield place
        finally:
            place.discard()
    finally:
        os.close(descriptor)


def failure(error: OSError, path: str) -> DeliveryFailed:
    """What went wrong with a file, as a failure that says whether it passes."""
    hint = {
        errno.ENOSPC: "; make room, it is tried again",
        errno.EDQUOT: "; make room, it is tried again",
        errno.EACCES: "; give the worker's user the right to write there",
        errno.EROFS: "; mount it for writing, or let the worker's unit write there (ReadWritePaths=)",
    }.get(error.errno or 0, "")
    return DeliveryFailed(f"{path}: {error.strerror or error}{hint}", permanent=error.errno in _PERMANENT)


def _check_above(path: Path) -> None:
    """Whoever can rename a directory above ours can put another one in its place; a sticky bit keeps others from it."""
    for above in path.parents:
        mode = above.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise _open_to_others(above)


def _open_to_others(path: Path) -> DeliveryFailed:
    return DeliveryFailed(f"{path} can be written to by everybody; run: chmod o-w {path}", permanent=True)


def _open_fixed(path: Path) -> int:
    try:
        descriptor = os.open(path, _OPEN_DIRECTORY)
    except FileNotFoundError:
        # It may be a file system that is not mounted now, so this passes.
        raise DeliveryFailed(f"{path} does not exist; mount it, or make it with: install -d -m 0750 {path}") from None
    except OSError as error:
        raise _no_directory(error, path) from None
    try:
        _check_above(path)
    except BaseException:
        os.close(descriptor)
        raise
    return _checked(descriptor, path)


def _enter(parent: int, name: str, own: Rights | None, above: Path) -> int:
    """The directory of that name, made if it is not there; `own` are the rights of the files in the last one."""
    path = above / name
    try:
        return _checked(os.open(name, _OPEN_DIRECTORY, dir_fd=parent), path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _no_directory(error, path) from None
    with contextlib.suppress(FileExistsError):  # another delivery has just made it
        os.mkdir(name, 0o700, dir_fd=parent)
    descriptor = os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
    try:
        if own is None:
            os.fchmod(descriptor, 0o711)
        else:
            _give(descriptor, Rights(own.directory_mode(), own.uid, own.gid), str(path))
        os.fsync(parent)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _checked(descriptor: int, path: Path) -> int:
    if os.fstat(descriptor).st_mode & stat.S_IWOTH:
        os.close(descriptor)
        raise _open_to_others(path)
    return descriptor


def _no_directory(error: OSError, path: Path) -> DeliveryFailed:
    if error.errno not in (errno.ENOTDIR, errno.ELOOP):
        return failure(error, str(path))
    what = "a symbolic link; name the directory itself" if path.is_symlink() else "not a directory; move it away"
    return DeliveryFailed(f"{path} is {what}", permanent=True)


def _give(descriptor: int, given: Rights, path: str) -> None:
    if (given.uid, given.gid) != (_UNCHANGED, _UNCHANGED):
        try:
            os.fchown(descriptor, given.uid, given.gid)
        except PermissionError:
            text = (
                f"{path}: the worker may not give it to that owner or group; for a group, make its user a member of it"
            )
            raise DeliveryFailed(f"{text}, for an owner give its unit CAP_CHOWN", permanent=True) from None
    os.fchmod(descriptor, given.mode)
