# SPDX-License-Identifier: GPL-3.0-or-later
"""Nobody else can turn a delivery aside, or keep it from its turn."""

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from acme_milter.delivery.directories import Rights, open_fixed
from acme_milter.delivery.placing import placing
from acme_milter.delivery.target import DeliveryFailed

STRANGER = 12345


@pytest.fixture
def place(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def refusal(path: Path) -> str:
    with pytest.raises(DeliveryFailed) as caught:
        os.close(open_fixed(path))
    assert caught.value.permanent
    return str(caught.value)


def test_no_link_is_followed_on_the_way_to_a_fixed_directory(tmp_path: Path) -> None:
    (tmp_path / "real" / "base").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    os.close(open_fixed(tmp_path / "real" / "base"))
    assert refusal(tmp_path / "link" / "base") == f"{tmp_path}/link is a symbolic link; name the directory itself"


def stranger_owns(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    whole, fstat = path.stat(), os.fstat

    def seen(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        return os.stat_result((*found[:4], STRANGER, *found[5:])) if os.path.samestat(found, whole) else found

    monkeypatch.setattr(os, "fstat", seen)


def test_a_directory_above_that_is_somebody_elses_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs" / "base").mkdir(parents=True)
    stranger_owns(monkeypatch, tmp_path / "theirs")
    assert refusal(tmp_path / "theirs" / "base").endswith(f"run: chown root {tmp_path}/theirs")
    # They get what is put into it anyway.
    os.close(open_fixed(tmp_path / "theirs"))


def test_where_everybody_can_make_directories_it_has_to_be_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sticky" / "base").mkdir(parents=True)
    (tmp_path / "sticky").chmod(0o1777)
    os.close(open_fixed(tmp_path / "sticky" / "base"))
    stranger_owns(monkeypatch, tmp_path / "sticky" / "base")
    assert refusal(tmp_path / "sticky" / "base").endswith(f"run: chown root {tmp_path}/sticky/base")


def test_whoever_locks_the_directory_holds_up_nobody(tmp_path: Path, place: int) -> None:
    fcntl.flock(place, fcntl.LOCK_EX)
    with placing(tmp_path, (), Rights(0o600)) as ours:
        ours.lock("table", 0)
    assert (tmp_path / ".table.lock").stat().st_mode & 0o777 == 0o600


def test_a_lock_is_free_when_its_directory_is_left_and_when_its_file_was_tidied_away(tmp_path: Path) -> None:
    for _ in range(2):
        with placing(tmp_path, (), Rights(0o600)) as ours:
            ours.lock("table", 0)
            with placing(tmp_path, (), Rights(0o600)) as other:
                other.lock("another", 0)
                with pytest.raises(DeliveryFailed, match="locked by another delivery") as caught:
                    other.lock("table", 0)
            assert not caught.value.permanent
        (tmp_path / ".table.lock").unlink()


@pytest.mark.parametrize("what", ["link", "directory", "open"])
def test_a_lock_that_others_could_keep_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / ".table.lock"
    if what == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif what == "directory":
        path.mkdir()
    else:
        path.touch()
        path.chmod(0o644)
    with (
        placing(tmp_path, (), Rights(0o600)) as ours,
        pytest.raises(DeliveryFailed, match=r"\.table\.lock is .*; remove it") as caught,
    ):
        ours.lock("table", 0)
    assert caught.value.permanent
    assert not (tmp_path / "elsewhere").exists()


def test_two_that_prepare_one_file_do_not_meet_and_what_a_crash_has_left_goes_in_time(tmp_path: Path) -> None:
    left, fresh = tmp_path / ".key.0.part", tmp_path / ".key.1.part"
    left.touch()
    fresh.touch()
    os.utime(left, (time.time() - 7200,) * 2)
    with placing(tmp_path, (), Rights(0o600)) as one, placing(tmp_path, (), Rights(0o600)) as other:
        one.stage("key", Rights(0o600), b"one")
        other.stage("key", Rights(0o600), b"other")
        other.commit()
        one.commit()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"key": b"one", fresh.name: b""}
