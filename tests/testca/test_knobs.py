# SPDX-License-Identifier: GPL-3.0-or-later
"""Knobs and the control face: faults strike when asked for, never otherwise, and a wrong name is told."""

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner
from cryptography import x509

from acme_milter.cli import testca as face
from tests.testca.conftest import Enrollment, RunningCa, start_ca
from tests.testca.organization import Organization
from tests.testca.small_acme import SmallAcme
from tests.testca.test_certificates import renewal_identity
from tests.testca.test_http_rules import problem


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("NONCEREJCT=5", "did you mean NONCEREJECT"),
        ("DKIM=perfect", "good|unsigned|rsa-sha1"),
        ("DKIM=missing-name:", "missing-name:X"),
        ("NONCEREJECT=101", "0..100"),
        ("TOKEN_PART1_BYTES=7", "8..64"),
        ("SLOW=-1", "seconds"),
        ("DKIM", "NAME=VALUE"),
    ],
)
def test_a_wrong_knob_on_the_command_line_is_a_usage_error(setting: str, told: str) -> None:
    command = [
        "--smtp-target",
        "127.0.0.1:25",
        "--state-dir",
        "/dev/null/state",
        "--reply-dkim",
        "off",
        "--chaos",
        setting,
    ]
    result = CliRunner().invoke(face.testca, command)
    assert result.exit_code == 2
    assert told in result.output


def test_replies_cannot_be_verified_without_a_resolver() -> None:
    result = CliRunner().invoke(face.testca, ["--smtp-target", "127.0.0.1:25", "--state-dir", "/dev/null/state"])
    assert (result.exit_code, "--resolver" in result.output) == (2, True)


def test_the_knobs_are_listed() -> None:
    command = [sys.executable, "-m", "acme_milter.testca", "--knobs"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "NONCEREJECT=0.0" in listed
    assert "missing-name:X" in listed


@pytest.mark.parametrize(
    "knobs", [{"NOSUCH": 1}, {"DKIM": "perfect"}, {"SLOW": "fast"}, {"MAIL_LOSS": 5, "CERT": "shiny"}]
)
def test_a_wrong_knob_over_the_control_face_changes_nothing(ca: RunningCa, knobs: dict[str, object]) -> None:
    answer = ca.chaos(**knobs)
    assert answer.status_code == 400
    assert next(name for name in knobs if name != "MAIL_LOSS") in answer.json()["error"]
    assert ca.session.get(f"{ca.announced['control']}/chaos").json()["values"]["MAIL_LOSS"] == 0


def test_a_rejected_nonce_brings_the_next_one(ca: RunningCa, client: SmallAcme) -> None:
    ca.chaos(NONCEREJECT=100)
    answer = client.order("nonce@org.example")
    assert (problem(answer), bool(answer.headers["Replay-Nonce"])) == ("badNonce", True)


def test_a_reset_comes_after_the_effect(ca: RunningCa, client: SmallAcme) -> None:
    before = ca.last()
    ca.chaos(HTTP_RESET_AFTER_COMMIT="on")
    with pytest.raises(requests.ConnectionError):
        client.order("reset@org.example")
    assert ca.history("order", after=before)[0]["identifiers"] == ["reset@org.example"]


def test_server_trouble_comes_before_the_effect(ca: RunningCa, client: SmallAcme) -> None:
    before = ca.last()
    ca.chaos(HTTP_5XX=100)
    assert {client.order("trouble@org.example").status_code for _ in range(12)} == {500, 503}
    assert ca.history("order", after=before) == []
    assert {one["knob"] for one in ca.history("fault", after=before)} == {"HTTP_5XX"}


@pytest.mark.parametrize(
    ("form", "pattern"),
    [("int", "1"), ("date", "GMT"), ("garbage", "soon"), ("huge", "99999999999"), ("neg", "-5"), ("none", "")],
)
def test_retry_after_takes_every_form(ca: RunningCa, enrollment: Enrollment, form: str, pattern: str) -> None:
    ca.chaos(RETRY_AFTER=form)
    enrollment.place()
    assert pattern in enrollment.client.post(enrollment.authorization).headers.get("Retry-After", "")


def test_a_rate_limit_says_when_and_where(ca: RunningCa, client: SmallAcme) -> None:
    ca.chaos(RATELIMIT=100)
    answer = client.order("limit@org.example")
    assert (answer.status_code, problem(answer), answer.headers["Retry-After"]) == (429, "rateLimited", "1")
    assert answer.links["help"]


def test_a_refused_address_is_named(ca: RunningCa, client: SmallAcme) -> None:
    ca.chaos(REFUSE_ADDRESS="bad@org.example, refused.example")
    for address in ("bad@org.example", "any@refused.example"):
        answer = client.order("good@org.example", address)
        assert problem(answer) == "rejectedIdentifier"
        assert answer.json()["subproblems"][0]["identifier"]["value"] == address


def test_a_valid_authorization_is_reused_when_asked(ca: RunningCa, enrollment: Enrollment) -> None:
    enrollment.validate()
    first = enrollment.authorization
    assert enrollment.place()["authorizations"] != [first]
    ca.chaos(AUTHZREUSE="on")
    order = enrollment.place()
    assert (order["authorizations"], order["status"]) == ([first], "ready")


def test_an_open_order_is_handed_back_when_asked(ca: RunningCa, enrollment: Enrollment) -> None:
    enrollment.place()
    first = enrollment.url
    ca.chaos(ORDERREUSE="on")
    enrollment.place()
    assert enrollment.url == first


def test_finalize_can_fail_once_and_the_order_stays_ready(ca: RunningCa, enrollment: Enrollment) -> None:
    enrollment.validate()
    ca.chaos(FINALIZE_500="on")
    assert enrollment.finalize().status_code == 500
    ca.chaos(FINALIZE_500="off")
    assert enrollment.finalize().json()["status"] == "valid"


def test_an_authorization_expires(ca: RunningCa, enrollment: Enrollment) -> None:
    ca.chaos(AUTHZ_LIFETIME=0.05)
    enrollment.place()
    time.sleep(0.1)
    assert enrollment.fetch_authorization()["status"] == "invalid"
    assert enrollment.order()["status"] == "invalid"


def test_a_deactivated_authorization_ends_its_order(enrollment: Enrollment) -> None:
    enrollment.place()
    answer = enrollment.client.post(enrollment.authorization, {"status": "deactivated"})
    assert answer.json()["status"] == "deactivated"
    assert enrollment.order()["status"] == "invalid"


def test_all_sets_every_chance_but_the_crash(ca: RunningCa) -> None:
    values = ca.chaos(ALL=5, MAIL_LOSS=0).json()["values"]
    assert (values["NONCEREJECT"], values["MATCH_BY_FROM"], values["MAIL_LOSS"], values["CRASH"]) == (5, 5, 0, 0)
    assert values["DKIM"] == "good"


def test_a_crash_loses_the_memory_after_the_effect(tmp_path: Path, organization: Organization) -> None:
    running = start_ca(tmp_path, organization, "--chaos", "CRASH=on")
    stranger = running.client()
    with pytest.raises(requests.ConnectionError):
        stranger.register()
    assert running.process.wait(5) == 70
    stranger.close()
    running.stop()


def test_answers_can_be_slow(ca: RunningCa, client: SmallAcme) -> None:
    ca.chaos(SLOW=0.4)
    began = time.monotonic()
    for _ in range(4):
        client.post(str(client.kid))
    assert time.monotonic() - began > 0.2


@pytest.mark.parametrize("form", ["now", "past", "backwards"])
def test_the_renewal_window_can_be_moved(ca: RunningCa, enrollment: Enrollment, form: str) -> None:
    enrollment.validate()
    ca.chaos(ARI=form, CERT_LIFETIME=3600)
    pem = enrollment.client.post(enrollment.finalize().json()["certificate"]).content
    leaf = x509.load_pem_x509_certificate(pem)
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == timedelta(hours=1)
    url = enrollment.client.directory["renewalInfo"]
    window = ca.session.get(f"{url}/{renewal_identity(leaf)}").json()["suggestedWindow"]
    start, end = (datetime.fromisoformat(window[name]) for name in ("start", "end"))
    now = datetime.now(UTC)
    assert {"now": start <= now < end + timedelta(seconds=5), "past": end < now, "backwards": end < start}[form]
