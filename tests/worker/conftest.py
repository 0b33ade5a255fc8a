# SPDX-License-Identifier: GPL-3.0-or-later
"""Real parts around the worker: DKIM children for the whole session, everything else new for each test."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from acme_milter.lab.organization import fill
from acme_milter.worker.dkim_verifier import ArithmeticPool
from tests.fresh_store import open_store
from tests.worker.bulk_desk import DOMAINS, NOW, Desk, TickingClock, configured
from tests.worker.fickle_smtp import FickleSmtp
from tests.worker.intake_bench import IntakeBench
from tests.worker.order_bench import OrderBench
from tests.worker.reply_post import Post
from tests.worker.site import Site


class MakeBench(Protocol):
    """Makes an IntakeBench; the arguments change its configuration."""

    def __call__(self, **changes: Any) -> IntakeBench: ...


@pytest.fixture(scope="session")
def dkim_children() -> Iterator[ArithmeticPool]:
    with ArithmeticPool(1) as pool:
        yield pool


@pytest.fixture
def make_bench(tmp_path: Path, dkim_children: ArithmeticPool) -> Iterator[MakeBench]:
    with ExitStack() as stack:
        yield lambda **changes: stack.enter_context(IntakeBench(tmp_path, dkim_children, **changes))


@pytest.fixture
def bench(make_bench: MakeBench) -> IntakeBench:
    """An order that awaits its challenge mail, and an intake to bring one to."""
    bench = make_bench()
    bench.expect()
    return bench


@pytest.fixture
def smtp(monkeypatch: pytest.MonkeyPatch) -> Iterator[FickleSmtp]:
    monkeypatch.setattr("acme_milter.worker.responder.SMTP_TIMEOUT", 2.5)
    server = FickleSmtp()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def post(make_bench: MakeBench, smtp: FickleSmtp) -> Post:
    reply = {"host": "127.0.0.1", "port": smtp.port, "follow": "none"}
    bench = make_bench(defaults={"reply": reply}, authority={"post_delay": "7s"})
    enrollment = bench.expect()
    assert bench.decide().disposition == "discard"
    return Post(bench, smtp, enrollment)


class MakeOrderBench(Protocol):
    """Makes an OrderBench; the arguments change its configuration."""

    def __call__(self, **changes: Any) -> OrderBench: ...


@pytest.fixture(scope="session")
def site_of_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def site(site_of_session: Site) -> Iterator[Site]:
    """A site whose CA has no faults, until the test gives it some."""
    yield site_of_session
    site_of_session.authority.reset_knobs()


@pytest.fixture
def make_orders(site: Site, tmp_path: Path, dkim_children: ArithmeticPool) -> Iterator[MakeOrderBench]:
    with ExitStack() as stack:
        yield lambda **changes: stack.enter_context(OrderBench(site, tmp_path, dkim_children, **changes))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Twenty mailboxes of two domains and two authorities; two have certificates of the first one."""
    database = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    fill(database, mailboxes=20, certificates=2, now=NOW, domains=DOMAINS)
    desk = Desk(database, lambda: configured(tmp_path, database), TickingClock())
    yield desk
    database.close()
