# SPDX-License-Identifier: GPL-3.0-or-later
"""After a crash in the middle of a handover: the same octets once more, never a third time, and only if need be."""

from datetime import timedelta

import pytest

from acme_milter.acme.authorization import AuthorizationStatus, ChallengeStatus
from acme_milter.acme.problem import Problem, ServerBusy, ServerRefused
from acme_milter.enrollment.model import State
from acme_milter.keys.client import KeydUnavailable
from acme_milter.worker.authorities import AccountGone
from tests.protocol.sample_mail import NOW
from tests.worker.fickle_smtp import Mood
from tests.worker.reply_post import Authority, Post


@pytest.fixture
def interrupted(post: Post) -> Post:
    post.crash_while_handing_over()
    return post


def test_after_a_crash_the_same_octets_go_out_once_more(interrupted: Post) -> None:
    assert interrupted.work_off().handovers == 1
    assert interrupted.due == NOW + timedelta(seconds=60)
    assert interrupted.authority.asked == 0
    interrupted.bench.clock.now = interrupted.due
    entry = interrupted.work_off()
    assert (entry.handovers, interrupted.authority.asked, interrupted.state) == (2, 1, State.REPLIED)
    (mail,) = interrupted.smtp.taken
    assert mail.content == interrupted.bench.vault.unseal_reply(entry.id, entry.sealed_reply)


@pytest.mark.parametrize(
    "authority",
    [
        Authority(AuthorizationStatus.VALID, ChallengeStatus.VALID),
        Authority(AuthorizationStatus.INVALID, ChallengeStatus.INVALID),
        Authority(AuthorizationStatus.PENDING, ChallengeStatus.VALID),
        Authority(AuthorizationStatus.PENDING, ChallengeStatus.PROCESSING),
        Authority(AuthorizationStatus.EXPIRED, ChallengeStatus.PENDING),
    ],
    ids=lambda authority: f"{authority.status} {authority.challenge}",
)
def test_after_a_crash_nothing_goes_out_when_the_authority_has_the_reply(
    interrupted: Post, authority: Authority
) -> None:
    interrupted.authority = authority
    interrupted.bench.clock.advance(seconds=60)
    entry = interrupted.work_off()
    assert (entry.sent_at, entry.queue_id, entry.handovers) == (NOW + timedelta(seconds=60), None, 1)
    assert interrupted.smtp.taken == []
    assert interrupted.state is State.REPLIED


@pytest.mark.parametrize(
    "trouble",
    [ServerBusy("no answer"), KeydUnavailable("keyd: away"), AccountGone("deactivated")],
    ids=["CA", "keyd", "account"],
)
def test_after_a_crash_nothing_goes_out_before_the_authority_could_be_asked(
    interrupted: Post, trouble: Exception
) -> None:
    interrupted.authority.trouble = trouble
    for _ in range(3):
        interrupted.bench.clock.advance(seconds=60)
        entry = interrupted.work_off()
        assert (entry.handovers, entry.sent_at) == (1, None)
        assert timedelta(seconds=5) <= interrupted.due - interrupted.bench.clock() <= timedelta(minutes=5)
    interrupted.authority.trouble = None
    interrupted.bench.clock.now = interrupted.due
    assert interrupted.work_off().queue_id == "4Rz1Kd0F2cz"


def test_an_authority_that_has_forgotten_the_authorization_cannot_have_the_reply(interrupted: Post) -> None:
    problem = Problem("urn:ietf:params:acme:error:malformed", status=404)
    interrupted.authority.trouble = ServerRefused("gone", problem=problem)
    interrupted.bench.clock.advance(seconds=60)
    assert interrupted.work_off().queue_id == "4Rz1Kd0F2cz"


def test_after_a_second_crash_it_is_taken_for_sent(interrupted: Post) -> None:
    interrupted.bench.clock.advance(seconds=60)
    interrupted.crash_while_handing_over()
    interrupted.bench.clock.advance(hours=1)
    entry = interrupted.work_off()
    assert (entry.handovers, entry.queue_id, entry.next_attempt_at) == (2, None, None)
    assert interrupted.smtp.taken == []
    assert interrupted.state is State.REPLIED


def test_a_certain_no_does_not_undo_an_earlier_doubt(interrupted: Post) -> None:
    """N2: handed over twice at most, also when refusals lie between."""
    interrupted.smtp.mood = Mood.REFUSES_RCPT
    interrupted.bench.clock.advance(seconds=60)
    entry = interrupted.work_off()
    assert (entry.handovers, entry.handover_began_at is None) == (1, False)
    interrupted.smtp.mood = Mood.TAKES_AND_CLOSES
    for _ in range(10):
        if interrupted.entry.next_attempt_at is not None:
            interrupted.bench.clock.advance(minutes=6)
            interrupted.work_off()
    assert len(interrupted.smtp.taken) == 1
    assert interrupted.entry.handovers == 2
    assert interrupted.state is State.REPLIED


def test_where_the_post_comes_first_a_challenge_in_progress_says_nothing_of_the_reply(interrupted: Post) -> None:
    interrupted.bench.configure(
        authority={"challenge_trigger": "post-first"},
        defaults={"reply": {"host": "127.0.0.1", "port": interrupted.smtp.port}},
    )
    interrupted.authority = Authority(AuthorizationStatus.PENDING, ChallengeStatus.PROCESSING)
    interrupted.bench.clock.advance(seconds=60)
    assert interrupted.work_off().queue_id == "4Rz1Kd0F2cz"
