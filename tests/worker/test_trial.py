# SPDX-License-Identifier: GPL-3.0-or-later
"""A trial of an authority hides nothing while it lasts, what was seen becomes settings, and then all is as before."""

from typing import Any

import pytest
import yaml

from acme_milter.cli.authority_test import lines_of
from acme_milter.config.loader import load_text
from acme_milter.enrollment.model import Enrollment, State
from acme_milter.protocol.dkim_policy import HeaderCoverage
from acme_milter.store import certificates, renewals
from acme_milter.worker.standing_config import StandingConfig
from acme_milter.worker.trial import Trials
from tests.worker.conftest import MakeOrderBench
from tests.worker.order_bench import OrderBench

STAGING = "ca:staging"


class Trial:
    """Trials on an OrderBench, whose authority is its own staging service."""

    def __init__(self, bench: OrderBench) -> None:
        self.bench = bench
        bench.configure({"staging": bench.site.authority.directory_url}, {})
        self.standing = StandingConfig(bench.config)
        self.trials = Trials(
            standing=self.standing,
            database=bench.database,
            authorities=bench.authorities,
            vault=bench.vault,
            clock=bench.clock,
            work_is_due=lambda: None,
        )

    def ask(self, call: str, **arguments: object) -> dict[str, Any]:
        answer: dict[str, Any] = self.trials.answers()[call]({"call": call, **arguments})
        self.bench.config = self.standing.current()
        return answer

    def begin(self, **arguments: object) -> Enrollment:
        begun = self.ask("authority-test", authority="ca", mailbox=self.bench.addresses[0], **arguments)
        assert begun["outcome"] == "opened", begun
        return self.bench.get(str(begun["id"]))

    def findings(self, enrollment: Enrollment) -> dict[str, Any]:
        return self.ask("authority-test-findings", id=enrollment.id)

    def walk(self, **arguments: object) -> dict[str, Any]:
        """The whole way, and what it showed."""
        waiting = self.bench.step_until(self.begin(**arguments), State.AWAITING_MAIL)
        return self.findings(self.bench.step_until(self.bench.answer_mail(waiting), State.REHEARSED, State.FAILED))


@pytest.fixture
def trial(make_orders: MakeOrderBench) -> Trial:
    return Trial(make_orders())


def test_what_was_seen_becomes_settings_that_the_loader_takes(trial: Trial) -> None:
    trial.bench.site.authority.set_knobs(AUTO_SUBMITTED="no", DKIM_NAMES="present", MAIL_DATE="absent")
    document = trial.walk()
    assert document["state"] == "rehearsed"
    shown = "\n".join(lines_of(document))
    proposed = yaml.safe_load(shown)["authorities"]["ca"]
    assert proposed == document["settings"]
    assert proposed == {
        "challenge_trigger": "reply-first",
        "dkim_headers": "present",
        "require_auto_submitted": False,
        "token_join": "string",
    }
    assert "# without Date" in shown
    assert "token-part1 has 32 octets" in shown
    assert document["seconds"]["whole"] > 0
    base = {"directory": "https://ca.example/directory", "agree_tos": True}
    mailboxes = {"org.example": {"mailboxes": {"list": ["a@org.example"]}}}
    written = {"version": 1, "authorities": {"ca": {**base, **proposed}}, "domains": mailboxes}
    load_text(yaml.safe_dump(written), trial.bench.config.path)


def test_a_strict_authority_is_found_to_be_one(trial: Trial) -> None:
    settings = trial.walk()["settings"]
    assert settings["dkim_headers"] == "strict"
    assert "require_auto_submitted" not in settings


def test_a_token_joined_otherwise_leads_to_what_to_try_next(trial: Trial) -> None:
    trial.bench.site.authority.set_knobs(TOKEN_JOIN="bytes", TOKEN_PART1_BYTES=16)
    failed = trial.walk()
    assert failed["state"] == "failed"
    assert "token_join" not in failed["settings"]
    assert any("--token-join bytes" in note for note in failed["notes"])
    found = trial.walk(token_join="bytes")
    assert (found["state"], found["settings"]["token_join"]) == ("rehearsed", "bytes")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ("draft", {"ratelimit-policy": '"orders";q=300;w=3600', "ratelimit": '"orders";r=299;t=1800'}),
        ("older", {"ratelimit-limit": "300", "ratelimit-remaining": "299", "ratelimit-reset": "1800"}),
        ("x", {"x-ratelimit-limit": "300", "x-rate-limit-remaining": "299"}),
        ("none", {}),
    ],
)
def test_what_an_authority_says_of_its_limits_is_shown(trial: Trial, fields: str, told: dict[str, str]) -> None:
    trial.bench.site.authority.set_knobs(LIMIT_FIELDS=fields)
    document = trial.findings(trial.bench.step_until(trial.begin(), State.AWAITING_MAIL))
    assert {name.lower(): value for name, value in document["rate_limits"].items()} == told
    assert all(value in "\n".join(lines_of(document)) for value in told.values())


def test_nothing_is_said_of_a_joining_that_makes_no_difference(trial: Trial) -> None:
    trial.bench.site.authority.set_knobs(TOKEN_PART1_BYTES=24)
    document = trial.walk()
    assert "token_join" not in document["settings"]
    assert any("24 octets" in note for note in document["notes"])


def test_a_mail_that_comes_only_after_the_post_is_noticed(trial: Trial) -> None:
    bench = trial.bench
    bench.site.authority.set_knobs(MAIL_AT="post")
    waiting = bench.step_until(trial.begin(post_after=1), State.AWAITING_MAIL)
    assert waiting.next_attempt_at is not None
    posted = bench.step(waiting)
    assert posted.challenge_posted_at is not None
    document = trial.findings(bench.step_until(bench.answer_mail(posted), State.REHEARSED))
    assert document["settings"]["challenge_trigger"] == "post-first"
    assert document["mail"]["came_after_post"]


def test_its_settings_are_the_staging_service_s_alone_and_end_with_it(trial: Trial) -> None:
    bench = trial.bench
    before = dict(bench.config.authorities)
    enrollment = trial.begin()
    assert bench.config.authorities["ca"] == before["ca"]
    assert bench.config.authorities[STAGING].dkim_headers is HeaderCoverage.PRESENT
    assert "already" in trial.ask("authority-test", authority="ca", mailbox=bench.addresses[0])["text"]
    assert trial.findings(enrollment)["state"] == "planned"
    assert bench.config.authorities != before, "it is still under way"
    waiting = bench.step_until(enrollment, State.AWAITING_MAIL)
    bench.step_until(bench.answer_mail(waiting), State.REHEARSED)
    trial.trials.end_what_is_over()
    assert trial.standing.current().authorities == before


def test_a_rehearsal_leaves_the_mailbox_as_it_was(trial: Trial) -> None:
    bench = trial.bench
    waiting = bench.step_until(bench.open(), State.AWAITING_MAIL)
    active = bench.step_until(bench.answer_mail(waiting), State.ACTIVE)
    assert trial.walk()["state"] == "rehearsed"
    assert bench.get(active.id) == active
    with bench.database.read() as connection:
        current = certificates.current(connection, active.address, active.principal)
        assert current is not None
        assert current.id == active.certificate_id
        assert [row.certificate_id for row in renewals.of_mailbox(connection, active.address)] == [current.id]


def test_a_rehearsal_that_fails_is_not_tried_again_by_itself(trial: Trial) -> None:
    bench = trial.bench
    ordering = bench.step_until(trial.begin(), State.ORDERING)
    bench.site.authority.set_knobs(REFUSE_ADDRESS=ordering.address)
    failed = bench.step_until(ordering, State.FAILED)
    assert failed.successor_id is None
    assert trial.findings(failed)["last_error"] == failed.last_error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"authority": "cb"}, "no authority cb is configured; there is ca"),
        ({"authority": STAGING}, "no authority ca:staging is configured; there is ca"),
        ({"mailbox": "nobody@org.example"}, "not a managed mailbox"),
    ],
)
def test_what_cannot_be_tried_is_said(trial: Trial, arguments: dict[str, str], said: str) -> None:
    wanted = {"authority": "ca", "mailbox": trial.bench.addresses[0], **arguments}
    assert said in trial.ask("authority-test", **wanted)["text"]


def test_an_authority_without_a_staging_service_and_a_busy_mailbox_are_left_alone(trial: Trial) -> None:
    bench = trial.bench
    bench.open()
    assert "order under way" in trial.ask("authority-test", authority="ca", mailbox=bench.addresses[0])["text"]
    bench.configure({}, {})
    trial.standing.replace_file(bench.config)
    said = trial.ask("authority-test", authority="ca", mailbox=bench.addresses[0])["text"]
    assert "authorities.ca.staging" in said
