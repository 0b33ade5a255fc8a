# SPDX-License-Identifier: GPL-3.0-or-later
"""Places files whole or not at all, with their owner, group and mode, in directories that nobody else can turn aside,
and removes them again.

A file is written under another name in the directory it is meant for, synced, given its rights, and renamed; so is
every other file of the same delivery before the first of them gets its name. Directories are opened one below the
other and never followed through a symbolic link, so what was checked is what is written to.
"""

import contextlib
import grp
import os
import pwd
import secrets
import stat
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from acme_milter.delivery.directories import UNCHANGED, Rights, enter, give, inside, open_fixed, told
from acme_milter.delivery.target import DeliveryFailed
from acme_milter.keys.clear_file import write_all
from acme_milter.lock_file import LockHeld, LockUnsafe, locked_file

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NUMBER_DIGITS = 9
_ABANDONED = 3600.0
"""Seconds after which a file that still waits for its name has been left by a crash: no delivery takes so long."""


def rights(mode: int, owner: str | None, group: str | None) -> Rights:
    """Names looked up now, not at the start: a user may be made later. Raises DeliveryFailed when there is none."""
    uid = _number(owner, "user", lambda name: pwd.getpwnam(name).pw_uid)
    return Rights(mode, uid, _number(group, "group", lambda name: grp.getgrnam(name).gr_gid))


def _number(name: str | None, what: str, look_up: Callable[[str], int]) -> int:
    if name is None:
        return UNCHANGED
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
        self._locks: list[int] = []

    def stage(self, name: str, rights: Rights, content: bytes | Callable[[int], None]) -> None:
        """Prepare a file: its octets, or what writes them into a descriptor that is open for writing only."""
        part = f".{name}.{secrets.token_hex(4)}.part"
        with told(f"{self.path}/{name}"):
            if self.is_directory(name):
                raise DeliveryFailed(f"{self.path}/{name} is a directory; move it away", permanent=True)
            self.clear_abandoned(name)
            file = os.open(part, _NEW_FILE, 0o600, dir_fd=self._descriptor)
            self._staged[name] = part
            try:
                if callable(content):
                    content(file)
                else:
                    write_all(file, content)
                give(file, rights, f"{self.path}/{name}")
                os.fsync(file)
            finally:
                os.close(file)

    def commit(self) -> None:
        """Give each file its name, replacing what had it, and sync the directory."""
        for name, part in list(self._staged.items()):
            with told(f"{self.path}/{name}"):
                os.rename(part, name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
            del self._staged[name]
        self.sync()

    def sync(self) -> None:
        """Have it outlast a crash which names there are."""
        with told(str(self.path)):
            os.fsync(self._descriptor)

    def discard(self) -> None:
        """Remove what has not got its name."""
        for part in self._staged.values():
            with contextlib.suppress(OSError):
                os.unlink(part, dir_fd=self._descriptor)
        self._staged.clear()

    def remove(self, name: str) -> bool:
        """Remove a file that is of no use any more; whether there was one."""
        with told(f"{self.path}/{name}"):
            try:
                os.unlink(name, dir_fd=self._descriptor)
            except FileNotFoundError:
                return False
        return True

    def remove_directory(self, name: str, owners: Collection[int]) -> bool:
        """Remove a directory that is empty, and one of these users'; whether that was done."""
        with contextlib.suppress(OSError):  # there is something in it: then it stays
            if os.stat(name, dir_fd=self._descriptor, follow_symlinks=False).st_uid in owners:
                os.rmdir(name, dir_fd=self._descriptor)
                return True
        return False

    def read(self, name: str, limit: int) -> tuple[bytes, os.stat_result] | None:
        """A regular file's content and what the system says of it; None where there is none."""
        with told(f"{self.path}/{name}"):
            try:
                file = os.open(name, _READ_FILE, dir_fd=self._descriptor)
            except FileNotFoundError:
                return None
            with os.fdopen(file, "rb") as stream:
                found = os.fstat(file)
                if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
                    raise DeliveryFailed(f"{self.path}/{name} is no file of at most {limit} octets", permanent=True)
                return stream.read(limit), found

    def begins_with(self, name: str, octets: bytes) -> bool:
        """Whether a file begins so. Not an octet beyond the first that differs is read: a key in clear may follow."""
        with told(f"{self.path}/{name}"):
            file = os.open(name, _READ_FILE, dir_fd=self._descriptor)
            try:
                return all(os.read(file, 1) == octets[at : at + 1] for at in range(len(octets)))
            finally:
                os.close(file)

    def has(self, name: str) -> bool:
        """Whether anything has that name."""
        return self._mode(name) != 0

    def is_directory(self, name: str) -> bool:
        """Whether a directory has that name."""
        return stat.S_ISDIR(self._mode(name))

    def is_file(self, name: str) -> bool:
        """Whether a regular file has that name."""
        return stat.S_ISREG(self._mode(name))

    def _mode(self, name: str) -> int:
        with told(f"{self.path}/{name}"):
            try:
                return os.stat(name, dir_fd=self._descriptor, follow_symlinks=False).st_mode
            except FileNotFoundError:
                return 0  # of no kind of file

    def identity(self) -> tuple[int, int]:
        """What one directory has in common under whatever paths."""
        found = os.fstat(self._descriptor)
        return found.st_dev, found.st_ino

    def lock(self, name: str, seconds: float) -> None:
        """Keep other deliveries, of other processes too, from the file of this name until the directory is left."""
        path = self.path / f".{name}.lock"
        with told(str(path)):
            try:
                self._locks.append(locked_file(self._descriptor, path, seconds))
            except LockHeld:
                raise DeliveryFailed(f"{path} is locked by another delivery") from None
            except LockUnsafe as unsafe:
                raise DeliveryFailed(str(unsafe), permanent=True) from None

    def unlock(self) -> None:
        """Let the others have their turn."""
        while self._locks:
            os.close(self._locks.pop())

    def clear_abandoned(self, name: str, *, fresh: bool = False) -> None:
        """Remove what a crash has left of the file of this name: there may be a key in it. `fresh`: even if it looks
        as if somebody were still at it. Raises OSError.
        """
        for found in os.listdir(self._descriptor):  # noqa: PTH208 a descriptor
            if not (found.startswith(f".{name}.") and found.endswith(".part")):
                continue
            with contextlib.suppress(FileNotFoundError):  # somebody else has just done so, or it has its name now
                seen = os.stat(found, dir_fd=self._descriptor, follow_symlinks=False)
                if fresh or time.time() - seen.st_mtime > _ABANDONED or not stat.S_ISREG(seen.st_mode):
                    os.unlink(found, dir_fd=self._descriptor)


@contextmanager
def placing(fixed: Path, own: Sequence[str], given: Rights) -> Iterator[Place]:
    """The directory `own` below `fixed`, for files with the rights `given`. What is not committed when it is left, is
    removed.

    `fixed` has to exist. What follows is made: the last one, which is the mailbox's own, with the rights of its files,
    those above it with mode 0711. Raises DeliveryFailed.
    """
    descriptor = _opened(fixed, own, given)
    assert descriptor is not None
    with _place(fixed.joinpath(*own), descriptor) as place:
        yield place


@contextmanager
def standing(fixed: Path, own: Sequence[str]) -> Iterator[Place | None]:
    """The directory `own` below `fixed` as it is, to remove files; None where it is not there, and none is made.

    `fixed` has to exist: of a file system that is not mounted nobody knows what is there. Raises DeliveryFailed.
    """
    descriptor = _opened(fixed, own, None)
    if descriptor is None:
        yield None
        return
    with _place(fixed.joinpath(*own), descriptor) as place:
        yield place


def _opened(fixed: Path, own: Sequence[str], given: Rights | None) -> int | None:
    """With `given`, what is not there is made; without, it is None."""
    with told(str(fixed.joinpath(*own))):
        descriptor = open_fixed(fixed)
        for number, name in enumerate(own):
            above = fixed.joinpath(*own[:number])
            try:
                if given is None:
                    below = inside(descriptor, name, above)
                else:
                    below = enter(descriptor, name, given if number == len(own) - 1 else None, above)
            finally:
                os.close(descriptor)
            if below is None:
                return None
            descriptor = below
    return descriptor


@contextmanager
def _place(path: Path, descriptor: int) -> Iterator[Place]:
    place = Place(path, descriptor)
    try:
        yield place
    finally:
        place.discard()
        place.unlock()
        os.close(descriptor)
