# SPDX-License-Identifier: GPL-3.0-or-later
"""What the store costs for one enrollment, at a small and at a large organization: it must stay the same.

A real worker takes real orders, one after the other, on a store that is filled with others' certificates; every
statement and every commit of its database is timed.
"""

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from acme_milter.lab.processes import ChildProcess, wait_until
from acme_milter.lab.system import AUTHORITY, Lab
from acme_milter.store.database import Database
from acme_milter.worker.service import Worker
from bench.milter_cost import Measure
from bench.organization import address_of, fill, has_been_read

SMALL, LARGE = 1_000, 100_000
ENROLLMENTS = 30
TARGET = 1.5
OTHERS = "others.example"


def measure(small: int = SMALL, large: int = LARGE) -> Iterator[Measure]:
    """The store's milliseconds for an enrollment at both sizes, and their ratio."""
    costs = {size: _milliseconds(size) for size in (small, large)}
    for size, cost in costs.items():
        yield Measure(f"store, an enrollment at {size} mailboxes", cost, "ms")
    yield Measure(f"store, {large} to {small} mailboxes", costs[large] / costs[small], "x", TARGET)


def _milliseconds(size: int) -> float:
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        Path(scratch).chmod(0o755)
        with _FilledLab(Path(scratch), size) as lab:
            first, *rest = lab.addresses
            lab.enroll(first)  # whatever is done once is done
            costs = []
            for address in rest:
                with lab.timed() as spent:
                    (result,) = lab.enroll(address)
                assert result["state"] == "active", result
                costs.append(sum(spent) * 1000)
            return statistics.median(costs)


class _FilledLab(Lab):
    """A laboratory whose store holds the certificates of ``others`` more mailboxes, and whose worker is in here."""

    def __init__(self, directory: Path, others: int) -> None:
        self._others = others
        self.worker: Worker
        source = directory / "others.csv"
        lines = (f"{address_of(number, (OTHERS,))},{number}\n" for number in range(others))
        source.write_text("address,id\n" + "".join(lines), encoding="utf-8")
        super().__init__(
            directory,
            domains={"org.example": [f"user{number}" for number in range(ENROLLMENTS + 1)]},
            reply_dkim="own",
            sections={
                "sources": {"others": {"type": "csv", "path": str(source)}},
                # Nothing of theirs falls due in the minutes of the measurement.
                "domains": {OTHERS: {"source": "others", "mode": "observe"}},
            },
        )

    def start_roles(self) -> None:
        database = Database(self.config.store.url)
        database.upgrade()
        fill(
            database,
            mailboxes=self._others,
            now=datetime.now(UTC),
            domains=(OTHERS,),
            source="others",
            authority=AUTHORITY,
        )
        with database.read() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()
        os.sync()  # what was filled in is not to be waited for later
        for name in ("keyd", "milter"):
            self.roles = ChildProcess(self.command(name), log=self.run_log, name=name)
            self.roles.start()
            self._started.append(self.roles)
        # Our own output is for figures, and the worker would tell there that it has to wait for keyd.
        wait_until(self.config.keys.socket.exists, "keyd", timeout=20)
        self.worker = Worker(self.config)
        self._started.append(self.worker)
        self.worker.start(threading.Event())
        self.wait_for_roles()
        inside = self.worker._database  # noqa: SLF001 the bench looks inside on purpose
        wait_until(lambda: has_been_read(inside, "others"), "the worker to have read its source", timeout=120)

    @contextmanager
    def timed(self) -> Iterator[list[float]]:
        """Gathers the seconds of every statement and commit while it lasts."""
        engine: sa.Engine = self.worker._database._engine  # noqa: SLF001 the bench looks inside on purpose
        spent: list[float] = []
        began: dict[int, float] = {}

        def before(_connection: Any, cursor: Any, *_: Any) -> None:
            began[id(cursor)] = time.perf_counter()

        def after(_connection: Any, cursor: Any, *_: Any) -> None:
            if id(cursor) in began:  # else it began before anybody looked
                spent.append(time.perf_counter() - began.pop(id(cursor)))

        commit = engine.dialect.do_commit
        sa.event.listen(engine, "before_cursor_execute", before)
        sa.event.listen(engine, "after_cursor_execute", after)
        engine.dialect.do_commit = _timed(commit, spent)  # type: ignore[assignment]  # there is no event for it
        try:
            yield spent
        finally:
            engine.dialect.do_commit = commit  # type: ignore[method-assign]  # as above
            sa.event.remove(engine, "before_cursor_execute", before)
            sa.event.remove(engine, "after_cursor_execute", after)


def _timed(commit: Callable[[Any], None], spent: list[float]) -> Callable[[Any], None]:
    def timed_commit(connection: Any) -> None:
        began = time.perf_counter()
        commit(connection)
        spent.append(time.perf_counter() - began)

    return timed_commit
