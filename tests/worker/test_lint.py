# SPDX-License-Identifier: GPL-3.0-or-later
"""What an authority issues is linted before it is used, and kept back with the finding."""

from acme_milter.enrollment.model import State
from tests.worker.conftest import MakeOrderBench

THREE_YEARS = 3 * 365 * 86400.0
"""The S/MIME Baseline Requirements allow 825 days (§6.3.2)."""

ENDED = (State.ACTIVE, State.FAILED)


def test_a_certificate_that_breaks_the_requirements_is_kept_back_with_the_finding(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    bench.site.authority.set_knobs(CERT_LIFETIME=THREE_YEARS)
    ended = bench.step_until(bench.answer_mail(bench.step_until(bench.open(), State.AWAITING_MAIL)), *ENDED)
    assert ended.state is State.FAILED
    assert ended.last_error is not None
    assert "lint: pkilint finds cabf.smime" in ended.last_error
    assert "validity" in ended.last_error
    assert bench.certificates() == []
    assert ended.successor_id is None  # the next one would be no better


def test_an_authority_that_is_not_to_be_linted_is_not(make_orders: MakeOrderBench) -> None:
    bench = make_orders(authority={"lint": "none"})
    bench.site.authority.set_knobs(CERT_LIFETIME=THREE_YEARS)
    ended = bench.step_until(bench.answer_mail(bench.step_until(bench.open(), State.AWAITING_MAIL)), *ENDED)
    assert ended.state is State.ACTIVE, ended.last_error


def test_what_the_test_authority_issues_keeps_the_requirements(make_orders: MakeOrderBench) -> None:
    bench = make_orders(authority={"lint": "require"})
    ended = bench.step_until(bench.answer_mail(bench.step_until(bench.open(), State.AWAITING_MAIL)), *ENDED)
    assert ended.state is State.ACTIVE, ended.last_error
