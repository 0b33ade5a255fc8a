# SPDX-License-Identifier: GPL-3.0-or-later
"""A hook's files are gone when it has ended, and what a killed worker has left goes before the next one's are made."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from acme_milter.delivery import hook_directory as module
from acme_milter.delivery.hook_directory import PREFIX, hook_directory
from acme_milter.delivery.target import DeliveryFailed
from tests.delivery.parcels import names_in

_HOLD = """
from acme_milter.delivery.hook_directory import hook_directory
with hook_directory() as place:
    (place / "identity.p12").write_bytes(b"sealed")
    print(place.name, flush=True)
    input()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "tmp"
    place.mkdir()
    place.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture
def worker(temporary: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is in the middle of a hook."""
    environment = {**os.environ, "TMPDIR": str(temporary)}
    argv = [sys.executable, "-c", _HOLD]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield process
        process.kill()


def test_a_directory_is_open_to_nobody_else_and_gone_afterwards_with_all_that_is_in_it(temporary: Path) -> None:
    with hook_directory() as place:
        assert place.parent == temporary
        assert place.stat().st_mode & 0o777 == 0o700
        (place / "below").mkdir()
        (place / "below" / "file").touch()
        (place / "file").touch()
    assert names_in(temporary) == []


def test_what_is_in_use_stays_and_what_a_killed_worker_has_left_is_deleted(
    temporary: Path, worker: subprocess.Popen[str]
) -> None:
    assert worker.stdout is not None
    name = worker.stdout.readline().strip()
    with hook_directory() as place:
        assert names_in(temporary) == sorted([name, place.name])
        assert names_in(temporary / name) == ["identity.p12"]
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert names_in(temporary) == [name]
    with hook_directory() as place:
        assert names_in(temporary) == [place.name]


def test_nothing_of_somebody_else_and_nothing_beyond_a_link_is_deleted(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (temporary / f"{PREFIX}link").symlink_to(precious)
    ours = temporary / f"{PREFIX}ours"
    ours.mkdir(mode=0o700)
    (ours / "link").symlink_to(precious)
    theirs, shared = temporary / f"{PREFIX}theirs", temporary / f"{PREFIX}shared"
    for other in (theirs, shared):
        other.mkdir(mode=0o700)
        (other / "file").touch()
    shared.chmod(0o777)
    whole, fstat = theirs.stat(), os.fstat

    def seen(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        return os.stat_result((*found[:4], 12345, *found[5:])) if os.path.samestat(found, whole) else found

    monkeypatch.setattr(os, "fstat", seen)
    with hook_directory():
        pass
    assert names_in(temporary) == [f"{PREFIX}link", f"{PREFIX}shared", f"{PREFIX}theirs"]
    assert [names_in(other) for other in (precious, theirs, shared)] == [["file"]] * 3


def test_one_that_another_worker_has_swept_before_it_was_locked_is_made_again(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = module._locked
    swept: list[str] = []

    def sweep_first(descriptor: int) -> bool | None:
        if not swept:
            swept.append(names_in(temporary)[0])
            (temporary / swept[0]).rmdir()
        return locked(descriptor)

    monkeypatch.setattr(module, "_locked", sweep_first)
    with hook_directory() as place:
        assert place.is_dir()
        assert names_in(temporary) == [place.name]
        assert place.name != swept[0]


def test_where_nothing_can_be_locked_nothing_is_swept_and_hooks_run_all_the_same(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary / f"{PREFIX}old").mkdir(mode=0o700)
    monkeypatch.setattr(module, "_locked", lambda _: None)
    with hook_directory() as place:
        assert place.is_dir()
    assert names_in(temporary) == [f"{PREFIX}old"]


def test_what_a_hook_has_made_and_nobody_can_delete_keeps_no_key_there(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as what it had root make."""

    def refuse(_name: str, *, dir_fd: int) -> None:
        raise PermissionError(errno.EACCES, "another user's")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with hook_directory() as place:
        for number in range(9):  # before and behind it, in whatever order they are listed
            (place / f"below{number}").mkdir()
            (place / f"key{number}.pem").touch()
    assert [name for name in names_in(place) if name.startswith("key")] == []


def test_no_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(DeliveryFailed, match="no files can be made for it"), hook_directory():
        pass
