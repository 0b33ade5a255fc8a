# SPDX-License-Identifier: GPL-3.0-or-later
"""A place to bring certificates to and take them back from, and what happens to mailboxes meanwhile."""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import yaml

from acme_milter.config.loader import load_text
from acme_milter.delivery.target import Claimed, Delivered, Gone, Parcel
from acme_milter.mailboxes.record import CameAs
from acme_milter.mailboxes.sync import Difference
from acme_milter.store.mailboxes import StoredMailbox
from acme_milter.worker.mailbox_writing import write_difference
from tests.delivery.depot import ALICE, BOB, Depot

GIVES_BACK = {"to": "hook", "argv": ["/bin/true"], "withdraw_argv": ["/bin/true"]}
KEEPS = {"to": "hook", "name": "keeps", "argv": ["/bin/true"]}


class Wall:
    """One place for each mailbox and use, where the last one that was put there hangs. `door`: whoever comes next
    waits before it; `polite`: he asks then whether it is still his job.
    """

    def __init__(self) -> None:
        self.hangs: dict[tuple[str, str], str] = {}
        self.gone: list[Gone] = []
        self.faults: list[Exception] = []
        self.door: threading.Event | None = None
        self.came = threading.Event()
        self.polite = False

    def deliver(self, parcel: Parcel) -> Delivered:
        self._come(parcel)
        self.hangs[parcel.address, parcel.usage] = parcel.serial
        return Delivered(outcome="on the wall", passphrases={"p12-modern": f"OPENS{parcel.serial}"})

    def withdraw(self, gone: Gone) -> str:
        self._come(gone)
        self.gone.append(gone)
        if not gone.replaced:
            self.hangs.pop((gone.address, gone.usage), None)
        return "off the wall"

    def _come(self, claimed: Claimed) -> None:
        door, self.door = self.door, None
        if door is not None:
            self.came.set()
            door.wait()
        if self.polite:
            claimed.be_ours()
        if self.faults:
            raise self.faults.pop(0)


def held(wall: Wall, stack: ExitStack, depot: Depot, owner: str = "depot#1") -> Callable[[], None]:
    """A worker's thread that has come to the wall and waits; what is returned lets it go on, to its end."""
    wall.door = door = threading.Event()
    thread = threading.Thread(target=depot.delivering(wall, owner=owner).work_off, args=("hook",))

    def go_on() -> None:
        door.set()
        thread.join()

    thread.start()
    stack.callback(go_on)
    assert wall.came.wait(20)
    wall.came.clear()
    return go_on


def known(address: str = ALICE, **more: Any) -> StoredMailbox:
    values: dict[str, Any] = {"principal": address, "source": "list", "came_as": CameAs.IMPORT, **more}
    return StoredMailbox(address=address, folded=address, domain="org.example", **values)


def apply(depot: Depot, **changes: Any) -> None:
    """As the look at a source does."""
    write_difference(depot.database, depot.config, Difference(source="list", number=0, **changes), depot.now)


def leave(depot: Depot) -> None:
    row = known(first_seen_at=depot.now, missing_since=depot.now, left_at=depot.now, groups=frozenset({"staff"}))
    apply(depot, left=(row,))
    depot.config = depot.config.with_members([])


def pass_on(depot: Depot) -> None:
    before = known(first_seen_at=depot.now)
    apply(depot, moved=((before, known(principal="staff:2", first_seen_at=depot.now)),))


def work_off(depot: Depot, wall: Wall, owner: str = "depot#1", **more: Any) -> None:
    delivering = depot.delivering(wall, owner=owner, **more)
    for title in ("hook", "keeps"):
        delivering.work_off(title)


def withdraw(depot: Depot, *addresses: str, **more: Any) -> list[tuple[str, list[str]]]:
    answer: Any = depot.calls.answers()["withdraw"]({"addresses": list(addresses or (ALICE,)), **more})
    return [(one["outcome"], one["targets"]) for one in answer["results"]]


def configured(depot: Depot, *, domain: dict[str, Any], defaults: list[Any] | None = None) -> None:
    depot.configure([])
    document: dict[str, Any] = {"domains": {"org.example": {"mailboxes": {"list": [BOB]}, **domain}}}
    text = depot.config_path.read_text().partition("domains:")[0]
    if defaults is not None:
        document["defaults"] = {"deliver": defaults}
    depot.config = load_text(text + yaml.safe_dump(document), depot.config_path)


LISTED = {"list": [BOB]}
STAFF = {"match": {"group": "staff"}, "deliver": [GIVES_BACK]}
ELSEWHERE = {**GIVES_BACK, "withdraw_argv": ["/bin/false"]}
