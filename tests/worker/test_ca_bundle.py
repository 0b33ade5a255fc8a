# SPDX-License-Identifier: GPL-3.0-or-later
"""What has changed in a ca_bundle at the same path counts after a reload; what cannot be read changes nothing."""

import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest

from acme_milter.acme.problem import ServerBusy
from acme_milter.config.fault import ConfigFaults
from acme_milter.config.loader import load
from acme_milter.config.schema import Config
from acme_milter.enrollment.model import State
from acme_milter.worker.authorities import AuthorityUnusable
from acme_milter.worker.reload import Reloader
from acme_milter.worker.standing_config import StandingConfig
from tests.protocol.smime_mail import root
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import OrderBench


class Reloading:
    """A bench whose configuration is a file with a ca_bundle of its own, in force in this process."""

    def __init__(self, make_orders: MakeOrderBench, directory: Path) -> None:
        self.bundle = directory / "ca-bundle.pem"
        self.bench = make_orders()
        self.good = self.bench.site.authority.ca_bundle.read_bytes()
        self.bundle.write_bytes(self.good)
        self.bench.configure({"ca_bundle": str(self.bundle)}, {})
        self.file = directory / "reloaded.yaml"
        self.bench.write_configuration(self.file)
        self.standing = StandingConfig(load(self.file))
        self.reloader = Reloader(self.standing, self._prepare, lambda: datetime.now(UTC))

    def _prepare(self, config: Config) -> None:
        self.bench.authorities.prepare(config)

    def reload(self, content: bytes) -> bool:
        self.bundle.write_bytes(content)
        return self.reloader.reload()

    def ask(self) -> None:
        """Over a new connection if the authority's is a new one; raises ServerBusy where it is not trusted."""
        self.bench.authorities.network("ca").ask_the_time()


@pytest.fixture
def it(make_orders: MakeOrderBench, tmp_path: Path) -> Reloading:
    return Reloading(make_orders, tmp_path)


def test_other_certificates_at_the_same_path_count_after_the_reload_and_not_before(it: Reloading) -> None:
    it.ask()
    it.bundle.write_bytes(root().pem)
    it.ask()
    assert it.reloader.reload()
    with pytest.raises(ServerBusy, match="certificate"):
        it.ask()
    assert it.reload(it.good)
    it.ask()


def test_the_same_certificates_cost_no_connection(it: Reloading) -> None:
    before = it.bench.authorities.network("ca")
    assert it.reload(it.good)
    assert it.bench.authorities.network("ca") is before


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "holds no certificates"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "holds a certificate that cannot be read"),
        (root().pem[:200], "holds a certificate that cannot be read"),
    ],
    ids=["empty", "garbage", "cut off"],
)
def test_a_file_that_cannot_be_used_keeps_the_certificates_before_and_is_named(
    it: Reloading, content: bytes, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = it.bench.authorities.network("ca")
    with caplog.at_level(logging.ERROR, logger="acme_milter"):
        assert not it.reload(content)
    assert f"authorities.ca.ca_bundle: {it.bundle} {what} (PEM)" in caplog.text
    assert f"{it.file}:" in caplog.text
    assert it.bench.authorities.network("ca") is before
    it.ask()


def test_a_file_that_only_the_worker_cannot_read_is_a_fault_of_the_reload(it: Reloading) -> None:
    it.ask()
    before = it.bench.authorities.network("ca")
    config = load(it.file)
    it.bundle.unlink()
    assert not it.reloader.reload()
    assert f"names {it.bundle}: No such file" in str(it.standing.last_fault)
    with pytest.raises(ConfigFaults) as caught:
        it.bench.authorities.prepare(config)
    assert f"authorities.ca.ca_bundle: {it.bundle}: No such file or directory" in str(caught.value)
    assert it.bench.authorities.network("ca") is before


def test_one_that_was_never_read_is_told_where_it_is_needed(it: Reloading) -> None:
    it.bundle.write_bytes(b"")
    with pytest.raises(AuthorityUnusable, match=r"authorities\.ca\.ca_bundle: .*ca-bundle\.pem"):
        it.bench.authorities.network("ca")


def test_trust_roots_count_as_they_are_when_a_certificate_comes(make_orders: MakeOrderBench, tmp_path: Path) -> None:
    roots = tmp_path / "roots.pem"
    bench = make_orders()
    roots.write_bytes((bench.site.authority.directory / "trust-roots.pem").read_bytes())
    bench.configure({"trust_roots": str(roots)}, {})
    waiting = bench.answer_mail(bench.step_until(bench.open(), State.AWAITING_MAIL))
    good = roots.read_bytes()
    roots.write_bytes(good[: len(good) // 3])
    with pytest.raises(AuthorityUnusable, match=r"trust_roots: .*roots\.pem: no certificates that can be read"):
        _until_issued(bench, waiting.id)
    roots.write_bytes(good)
    assert _until_issued(bench, waiting.id) is State.ACTIVE


def _until_issued(bench: OrderBench, enrollment_id: str) -> State:
    return bench.step_until(bench.get(enrollment_id), State.ACTIVE).state
