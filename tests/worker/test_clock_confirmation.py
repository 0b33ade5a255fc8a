# SPDX-License-Identifier: GPL-3.0-or-later
"""After a jump of the clock: an authority without a Date has another one's word for it, or a person's."""

import http.server
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from acme_milter.store import holds
from acme_milter.store.schema import account
from acme_milter.worker.storm_guard import StormGuard
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import OrderBench
from tests.worker.test_renewer import certified

MUTE = "mute"


class _Dateless(http.server.BaseHTTPRequestHandler):
    """Every GET is answered by an empty JSON object."""

    def do_GET(self) -> None:
        self.send_response_only(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mute(tmp_path: Path) -> Iterator[dict[str, object]]:
    """The settings of an authority that sends no Date."""
    certificate, key = str(tmp_path / "mute.pem"), str(tmp_path / "mute.key")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", "/CN=mute", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Dateless) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield {"directory": f"https://127.0.0.1:{server.server_port}/directory", "ca_bundle": certificate}
        server.shutdown()
        thread.join()


def known(bench: OrderBench, settings: dict[str, object], *, alone: bool = False) -> None:
    """There is an account with it; `alone`: and with no other one."""
    with bench.database.write() as connection:
        found = dict(connection.execute(sa.select(account)).mappings().one())
        changed = {"id": MUTE, "authority": MUTE, "directory_url": settings["directory"]}
        connection.execute(account.insert().values(**found | changed))
        if alone:
            connection.execute(account.delete().where(account.c.id != MUTE))


def guard_of(bench: OrderBench) -> StormGuard:
    return StormGuard(
        clock=bench.jumps, database=bench.database, watch=bench.watch, forecast=bench.forecast, sift=lambda _: None
    )


def test_another_authoritys_word_is_as_good_as_the_one_that_it_never_gives(
    make_orders: MakeOrderBench, mute: dict[str, object]
) -> None:
    bench = make_orders(minds_the_clock=True, others={MUTE: mute})
    certified(bench)
    known(bench, mute)
    guard = guard_of(bench)
    assert guard.lets_pass(MUTE)
    bench.clock.jump(days=300)
    bench.watch.look()  # the other one says that it is wrong
    assert not guard.lets_pass(MUTE)
    bench.clock.jump(days=-300)
    assert not guard.lets_pass(MUTE)  # right again, but nobody has said so yet
    bench.watch.look()
    assert not bench.watch.is_confirmed(MUTE)
    assert guard.lets_pass(MUTE)
    with bench.database.read() as connection:
        assert holds.waiting(connection) == []


def test_where_nobody_sends_a_date_a_person_is_asked_once_for_each_jump(
    make_orders: MakeOrderBench, mute: dict[str, object]
) -> None:
    bench = make_orders(minds_the_clock=True, others={MUTE: mute})
    certified(bench)
    known(bench, mute, alone=True)
    guard = guard_of(bench)
    for _ in range(2):
        bench.clock.jump(minutes=10)
        bench.watch.look()
        assert not guard.lets_pass(MUTE)
        assert not guard.lets_pass(MUTE)
        with bench.database.write() as connection:
            assert holds.release(connection, f"renewals:{MUTE}", bench.clock())
        assert [guard.lets_pass(MUTE) for _ in range(3)] == [True, True, True]
