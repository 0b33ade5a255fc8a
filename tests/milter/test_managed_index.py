# SPDX-License-Identifier: GPL-3.0-or-later
"""The set of managed addresses in the milter's memory."""

import queue
from collections.abc import Mapping
from pathlib import Path

import pytest

from acme_milter.ipc.client import FrameClient, PeerUnavailable
from acme_milter.ipc.server import FrameServer
from acme_milter.lab.processes import wait_until
from acme_milter.milter.managed_index import STALE_SECONDS, IndexRefresher, ManagedIndex


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Worker:
    """Answers from a list of pages; `down` makes it unreachable."""

    def __init__(self, *pages: str) -> None:
        self.pages = list(pages)
        self.version = "1"
        self.down = False
        self.calls: list[Mapping[str, object]] = []

    def __call__(self, header: Mapping[str, object]) -> tuple[dict[str, object], bytes]:
        self.calls.append(header)
        if self.down:
            raise PeerUnavailable("down")
        if header.get("known") == self.version:
            return {"version": self.version, "unchanged": True}, b""
        page = header.get("page", 0)
        assert isinstance(page, int)
        return {"version": self.version, "page": page, "pages": len(self.pages)}, self.pages[page].encode()


def held(index: ManagedIndex) -> set[str] | None:
    return None if index.addresses is None else set(index.addresses)


def test_all_pages_are_read_and_an_unchanged_set_is_not_read_again() -> None:
    worker = Worker("a@x.example\nb@x.example", "c@x.example")
    index = ManagedIndex(worker)
    assert held(index) is None
    assert index.refresh()
    assert held(index) == {"a@x.example", "b@x.example", "c@x.example"}
    before = index.addresses
    assert index.refresh()
    assert index.addresses is before
    assert len(worker.calls) == 3


def test_a_new_version_replaces_the_set() -> None:
    worker = Worker("a@x.example")
    index = ManagedIndex(worker)
    index.refresh()
    worker.version, worker.pages = "2", ["B@x.example"]
    index.refresh()
    assert held(index) == {"b@x.example"}


def test_nobody_managed_is_an_empty_set_and_not_an_unknown_one() -> None:
    index = ManagedIndex(Worker(""))
    assert index.refresh()
    assert held(index) == set()


def test_a_lost_worker_makes_the_set_unknown_after_a_minute_and_not_before(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    worker = Worker("a@x.example")
    index = ManagedIndex(worker, clock=clock)
    index.refresh()
    worker.down = True
    clock.now += STALE_SECONDS
    assert not index.refresh()
    assert held(index) == {"a@x.example"}
    clock.now += 1
    assert not index.refresh()
    assert held(index) is None
    worker.down = False
    assert index.refresh()
    assert held(index) == {"a@x.example"}


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        ({"error": "internal"}, b""),
        ({"version": "2", "pages": 0}, b""),
        ({"version": "2", "pages": "many"}, b""),
        ({"version": "2", "pages": 10**9}, b""),
        ({"version": "2", "unchanged": True}, b""),
        ({"version": "2", "pages": 1}, b"\xff\xfe"),
    ],
    ids=["error", "no-pages", "pages-text", "endless", "unchanged-from-nothing", "not-utf8"],
)
def test_an_answer_without_sense_changes_nothing(answer: dict[str, object], body: bytes) -> None:
    worker = Worker("a@x.example")
    replies: list[tuple[dict[str, object], bytes]] = []
    index = ManagedIndex(lambda header: replies.pop() if replies else worker(header))
    index.refresh()
    replies.append((answer, body))
    assert not index.refresh()
    assert held(index) == {"a@x.example"}


def test_a_set_that_changes_between_two_pages_is_not_mixed() -> None:
    worker = Worker("a@x.example", "b@x.example")
    index = ManagedIndex(worker)

    def changing(header: Mapping[str, object]) -> tuple[dict[str, object], bytes]:
        answer = worker(header)
        worker.version = "2"
        return answer

    index = ManagedIndex(changing)
    assert not index.refresh()
    assert held(index) is None
    assert index.refresh()


def test_it_speaks_to_a_real_socket(tmp_path: Path) -> None:
    worker = Worker("a@x.example")
    path = tmp_path / "intake.sock"
    with FrameServer(path, 0o600, lambda header, _: worker(header), threads=1), FrameClient(path, 2.0) as client:
        index = ManagedIndex(client.call)
        assert index.refresh()
        assert held(index) == {"a@x.example"}


def test_a_worker_that_waits_with_its_answer_is_asked_again_at_once() -> None:
    news: queue.SimpleQueue[str] = queue.SimpleQueue()

    def patient(header: Mapping[str, object]) -> tuple[dict[str, object], bytes]:
        assert isinstance(header["wait"], float)
        text = news.get(timeout=10)
        return {"version": text, "pages": 1, "waited": True}, text.encode()

    index = ManagedIndex(patient)
    refresher = IndexRefresher(index)
    refresher.start()
    for text in ("a@x.example", "b@x.example", "c@x.example"):  # with pauses of seconds this would take too long
        news.put(text)
        wait_until(lambda text=text: held(index) == {text}, text, timeout=4.0)  # type: ignore[misc]  # mypy cannot tell a lambda's default
    refresher.stop()
    news.put("d@x.example")
    refresher.join(10)
    assert not refresher.is_alive()


def test_a_worker_that_answers_at_once_has_kept_nothing_back() -> None:
    index = ManagedIndex(Worker("a@x.example"))
    assert index.refresh()
    assert not index.waited
