# SPDX-License-Identifier: GPL-3.0-or-later
"""Authorities as clients: one account each, whoever asks first, and faults that name the key to change."""

import json
import threading
from pathlib import Path

import pytest

from acme_milter.acme.client import AcmeClient
from acme_milter.acme.problem import ServerBusy
from acme_milter.keys.client import KeydClient, KeydUnavailable
from acme_milter.lab.processes import free_port
from acme_milter.store import accounts
from acme_milter.store.accounts import StoredAccount
from acme_milter.worker.authorities import Authorities, AuthorityUnusable
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import OrderBench


@pytest.fixture
def bench(make_orders: MakeOrderBench) -> OrderBench:
    return make_orders()


def registered(bench: OrderBench) -> int:
    """How many accounts the CA has made."""
    return len(bench.site.authority.history("account"))


def stored(bench: OrderBench) -> list[StoredAccount]:
    with bench.database.read() as connection:
        return accounts.every(connection)


def test_many_threads_that_begin_together_register_one_account(bench: OrderBench) -> None:
    before = registered(bench)
    barrier = threading.Barrier(8)
    found: list[AcmeClient] = []

    def ask() -> None:
        barrier.wait()
        found.append(bench.authorities.client("ca"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({client.account_url for client in found}) == 1
    assert len({id(client.network) for client in found}) == 1
    assert len(found) == 8
    (account,) = stored(bench)
    assert account.url == found[0].account_url
    assert registered(bench) == before + 1


def test_a_restart_finds_the_account_in_the_store(bench: OrderBench) -> None:
    url = bench.authorities.client("ca").account_url
    before = registered(bench)
    bench.restart()
    assert bench.authorities.client("ca").account_url == url
    assert bench.authorities.client("ca").fetch_account().url == url
    assert registered(bench) == before


def test_changed_settings_make_a_new_connection_and_leave_the_old_one_usable(bench: OrderBench) -> None:
    old = bench.authorities.client("ca")
    bench.configure({"post_delay": "7s"}, {})
    assert bench.authorities.network("ca") is old.network, "the file was read again and says the same of it"
    bench.configure({"limits": {"connections": 3}}, {})
    new = bench.authorities.client("ca")
    assert new.network is not old.network
    assert bench.authorities.network("ca") is new.network
    assert old.fetch_account().url == new.fetch_account().url


def test_an_account_whose_answer_was_lost_is_found_again_by_its_key(bench: OrderBench) -> None:
    """K5's sibling: the key is stored before newAccount goes out, so the second one finds the first one's account."""
    bench.site.authority.set_knobs(HTTP_RESET_AFTER_COMMIT=100)
    with pytest.raises(ServerBusy):
        bench.authorities.client("ca")
    (before,) = stored(bench)
    assert before.url is None
    made = registered(bench)
    bench.site.authority.reset_knobs()
    bench.authorities.client("ca")
    (after,) = stored(bench)
    assert (after.id, after.url is None) == (before.id, False)
    assert registered(bench) == made


def test_the_stored_thumbprint_is_that_of_the_account_key(bench: OrderBench) -> None:
    client = bench.authorities.client("ca")
    (account,) = stored(bench)
    assert account.thumbprint == client.thumbprint
    assert set(json.loads(account.jwk)) == {"kty", "crv", "x", "y"}
    assert "sealed" not in repr(account)


def test_a_bundle_that_is_not_there_is_named(bench: OrderBench, tmp_path: Path) -> None:
    bench.configure({"ca_bundle": str(tmp_path / "absent.pem")}, {})
    with pytest.raises(AuthorityUnusable, match=r"authorities\.ca\.ca_bundle: .*absent\.pem"):
        bench.authorities.client("ca")


def test_an_account_binding_whose_secret_is_not_there_is_named(bench: OrderBench, tmp_path: Path) -> None:
    secret = tmp_path / "hmac"
    bench.configure({"eab": {"kid": {"file": str(secret)}, "hmac": {"file": str(secret)}}}, {})
    with pytest.raises(AuthorityUnusable, match=r"authorities\.ca\.eab: .*hmac"):
        bench.authorities.client("ca")


def test_an_authority_that_left_the_configuration_is_named(bench: OrderBench) -> None:
    with pytest.raises(AuthorityUnusable, match=r"authorities\.gone is not configured"):
        bench.authorities.client("gone")


def test_an_authority_that_does_not_listen_is_busy_and_tried_anew(bench: OrderBench) -> None:
    bench.configure({"directory": f"https://127.0.0.1:{free_port()}/directory"}, {})
    for _ in range(2):
        with pytest.raises(ServerBusy):
            bench.authorities.client("ca")
    bench.configure({}, {})
    assert bench.authorities.client("ca").account_url.startswith("https://")


def test_without_keyd_no_account_is_made(bench: OrderBench) -> None:
    absent = KeydClient(bench.site.directory / "absent.sock", timeout=1)
    authorities = Authorities(config=lambda: bench.config, database=bench.database, keyd=absent, clock=bench.clock)
    with pytest.raises(KeydUnavailable):
        authorities.client("ca")
    assert stored(bench) == []
