# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of an authority's chains is taken (RFC 8555 §7.4.2): two roots have certified the test CA's intermediate."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from acme_milter.enrollment.model import Enrollment, State
from acme_milter.worker.chains import ends_at
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import OrderBench

ROOT = "acme-milter test S/MIME root"
OTHER = "acme-milter test S/MIME other root"


def issued(bench: OrderBench, **knobs: object) -> Enrollment:
    awaiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    bench.site.authority.set_knobs(**knobs)
    return bench.step_until(bench.answer_mail(awaiting), State.ACTIVE, State.FAILED)


@pytest.mark.parametrize("wanted", [None, ROOT, OTHER, OTHER.upper(), f"CN={OTHER}"])
def test_the_chain_with_the_wanted_name_at_its_top_is_taken(make_orders: MakeOrderBench, wanted: str | None) -> None:
    bench = make_orders(authority={"preferred_chain": wanted})
    assert issued(bench).state is State.ACTIVE
    (stored,) = bench.certificates()
    assert ends_at(stored.chain_pem, wanted or ROOT)


@pytest.mark.parametrize("alternate", ["none", "broken"])
def test_what_is_offered_is_taken_where_the_wanted_chain_is_not_and_that_is_said(
    make_orders: MakeOrderBench, alternate: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make_orders(authority={"preferred_chain": OTHER})
    with caplog.at_level("WARNING", "acme_milter"):
        assert issued(bench, ALTERNATE=alternate).state is State.ACTIVE
    (stored,) = bench.certificates()
    assert ends_at(stored.chain_pem, ROOT)
    assert f"chain-not-offered rcpt=<{bench.addresses[0]}> authority=ca" in caplog.text
    assert OTHER in caplog.text


def trusting(bench: OrderBench, directory: Path, name: str) -> Path:
    bundle = x509.load_pem_x509_certificates((bench.site.authority.directory / "trust-roots.pem").read_bytes())
    file = directory / "roots.pem"
    (only,) = [root for root in bundle if root.subject.rfc4514_string() == f"CN={name}"]
    file.write_bytes(only.public_bytes(Encoding.PEM))
    return file


def test_a_chain_that_nobody_trusts_gives_way_to_one_that_is_trusted(
    make_orders: MakeOrderBench, tmp_path: Path
) -> None:
    bench = make_orders()
    bench.configure({"trust_roots": str(trusting(bench, tmp_path, OTHER))}, {})
    assert issued(bench).state is State.ACTIVE
    (stored,) = bench.certificates()
    assert ends_at(stored.chain_pem, OTHER)


def test_the_fault_of_the_first_chain_is_told_when_no_other_is_better(
    make_orders: MakeOrderBench, tmp_path: Path
) -> None:
    bench = make_orders()
    bench.configure({"trust_roots": str(trusting(bench, tmp_path, OTHER))}, {})
    failed = issued(bench, ALTERNATE="none")
    assert failed.state is State.FAILED
    assert "untrusted" in (failed.last_error or "")
    assert bench.certificates() == []


def test_no_other_chain_mends_a_certificate_that_is_wrong_itself(make_orders: MakeOrderBench) -> None:
    bench = make_orders(authority={"preferred_chain": OTHER})
    bench.site.authority.set_knobs(CERT="wrongkey")
    failed = issued(bench)
    assert failed.state is State.FAILED
    assert "another key" in (failed.last_error or "")
