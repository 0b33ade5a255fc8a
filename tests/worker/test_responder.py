# SPDX-License-Identifier: GPL-3.0-or-later
"""The reply's way to Postfix over real SMTP: what is certain and what is not."""

from datetime import timedelta

import pytest

from acme_milter.enrollment.model import State
from acme_milter.lab.processes import free_port
from acme_milter.store import outbox
from tests.protocol.sample_mail import NOW, RECIPIENT, SENDER, TOKEN_PART1
from tests.worker.fickle_smtp import Mood
from tests.worker.reply_post import Post


def test_a_reply_that_is_taken_is_recorded_with_its_queue_id(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="acme_milter"):
        entry = post.work_off()
    assert (entry.sent_at, entry.queue_id, entry.next_attempt_at, entry.handovers) == (NOW, "4Rz1Kd0F2cz", None, 1)
    (mail,) = post.smtp.taken
    assert (mail.mail_from, mail.rcpt_tos) == (RECIPIENT, [SENDER])
    assert mail.content == post.bench.vault.unseal_reply(entry.id, entry.sealed_reply)
    moved = post.bench.enrollment(post.enrollment.id)
    assert (moved.state, moved.next_attempt_at) == (State.REPLIED, NOW + timedelta(seconds=7))
    assert " reply-queued " in caplog.text
    assert " reply_qid=4Rz1Kd0F2cz " in caplog.text
    assert TOKEN_PART1 not in caplog.text


def test_a_server_that_names_no_queue_id_has_the_reply_all_the_same(post: Post) -> None:
    post.smtp.mood = Mood.TAKES_AND_IS_TERSE
    entry = post.work_off()
    assert (entry.sent_at, entry.queue_id) == (NOW, None)
    assert post.state is State.REPLIED


def test_a_sent_reply_is_never_sent_again(post: Post) -> None:
    post.work_off()
    post.bench.clock.advance(hours=3)
    post.work_off()
    assert len(post.smtp.taken) == 1


CERTAIN = [
    Mood.REFUSES_MAIL,
    Mood.REFUSES_RCPT,
    Mood.REFUSES_DATA,
    Mood.REFUSES_CONTENT,
    Mood.CLOSES_AT_RCPT,
    Mood.HANGS_AT_RCPT,
]
AMBIGUOUS = [Mood.CLOSES_BEFORE_CONTENT, Mood.CLOSES_AT_DOT, Mood.TAKES_AND_CLOSES, Mood.HANGS_AT_DOT]


@pytest.mark.parametrize("code", ["451 4.3.0", "554 5.7.1"])
@pytest.mark.parametrize("mood", CERTAIN)
def test_a_reply_that_was_surely_not_taken_is_tried_again_soon_and_without_asking(
    post: Post, mood: Mood, code: str
) -> None:
    post.smtp.mood, post.smtp.refusal = mood, f"{code} no"
    entry = post.work_off()
    assert (entry.handovers, entry.handover_began_at, entry.sent_at) == (0, None, None)
    assert (entry.attempts, entry.next_attempt_at) == (1, NOW + timedelta(seconds=5))
    if "REFUSES" in mood.name:
        assert entry.last_error is not None
        assert entry.last_error.startswith(code[:3])
    assert post.state is State.REPLYING
    post.smtp.mood = Mood.TAKES
    post.work_off()
    assert post.smtp.taken == []  # not due yet
    post.bench.clock.now = post.due
    assert post.work_off().queue_id == "4Rz1Kd0F2cz"
    assert post.authority.asked == 0


@pytest.mark.parametrize("mood", AMBIGUOUS)
def test_a_reply_that_may_have_been_taken_goes_out_once_more_after_a_minute_and_a_question(
    post: Post, mood: Mood
) -> None:
    post.smtp.mood = mood
    entry = post.work_off()
    assert (entry.handovers, entry.handover_began_at, entry.sent_at) == (1, NOW, None)
    already = [mail.content for mail in post.smtp.taken]
    post.smtp.mood = Mood.TAKES
    while post.bench.clock() < NOW + timedelta(seconds=60):
        post.bench.clock.now = post.due
        if post.bench.clock() < NOW + timedelta(seconds=60):
            post.work_off()
            assert (len(post.smtp.taken), post.authority.asked) == (len(already), 0)
    assert post.work_off().sent_at == NOW + timedelta(seconds=60)
    assert post.authority.asked == 1
    sent = post.bench.vault.unseal_reply(entry.id, entry.sealed_reply)
    assert [mail.content for mail in post.smtp.taken] == [*already, sent]
    assert set(already) <= {sent}


def test_a_server_that_does_not_listen_is_a_certain_no(post: Post) -> None:
    post.bench.configure(defaults={"reply": {"host": "127.0.0.1", "port": free_port()}})
    entry = post.work_off()
    assert (entry.handovers, entry.next_attempt_at) == (0, NOW + timedelta(seconds=5))
    assert entry.last_error is not None
    assert "refused" in entry.last_error


def test_the_pauses_grow_to_five_minutes(post: Post) -> None:
    post.smtp.mood = Mood.REFUSES_MAIL
    pauses = []
    for _ in range(9):
        entry = post.work_off()
        pauses.append((post.due - post.bench.clock()).total_seconds())
        post.bench.clock.now = post.due
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert entry.attempts == 9


@pytest.mark.parametrize("state", [State.FINALIZING, State.ACTIVE, State.FAILED, State.CANCELLED])
def test_for_an_order_that_is_over_nothing_is_sent(post: Post, state: State) -> None:
    post.bench.set_state(post.enrollment, state)
    entry = post.work_off()
    assert (entry.next_attempt_at, entry.sent_at, entry.handovers) == (None, None, 0)
    assert entry.last_error == f"the order is over ({state})"
    assert post.smtp.taken == []


def test_a_reply_that_nobody_takes_for_six_hours_is_given_up_with_the_reason(post: Post) -> None:
    post.smtp.mood = Mood.REFUSES_MAIL
    refusal = post.work_off().last_error
    post.bench.clock.advance(hours=6, seconds=1)
    post.smtp.mood = Mood.TAKES
    entry = post.work_off()
    assert refusal is not None
    assert (entry.next_attempt_at, entry.last_error) == (None, refusal)
    assert post.smtp.taken == []


def test_an_entry_that_another_worker_holds_is_left_alone(post: Post) -> None:
    with post.bench.database.write() as connection:
        until = NOW + timedelta(minutes=5)
        assert outbox.claim(connection, post.entry.id, owner="another", now=NOW, until=until)
    assert post.work_off().handovers == 0
    post.bench.clock.advance(minutes=5, seconds=1)
    assert post.work_off().queue_id == "4Rz1Kd0F2cz"


def test_for_an_authority_that_left_the_configuration_nothing_is_sent(post: Post) -> None:
    post.bench.configure(name="another", defaults={"reply": {"host": "127.0.0.1", "port": post.smtp.port}})
    entry = post.work_off()
    assert (entry.next_attempt_at, entry.last_error) == (None, "authority ca is not configured any more")
    assert post.smtp.taken == []
