# SPDX-License-Identifier: GPL-3.0-or-later
"""The authority hears of a reply when that has left; what is late, bounced or unknown is told."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from acme_milter.clock import Clock
from acme_milter.enrollment.model import Enrollment, State
from acme_milter.eventlog import LOGGER_NAME
from acme_milter.lab.postfix import PostfixLab
from acme_milter.lab.processes import wait_until
from acme_milter.report import in_the_way
from acme_milter.store import departures
from acme_milter.store.departures import Departure, Followed
from acme_milter.store.outbox import OutboxEntry
from acme_milter.store.schema import enrollment as enrollment_table
from acme_milter.store.schema import outbox as outbox_table
from acme_milter.worker.departure import DepartureWatch, is_this_machine
from acme_milter.worker.janitor import Janitor
from acme_milter.worker.postfix_queue import QueueFollower
from acme_milter.worker.reply_fate import NOBODY_LOOKS, SILENCE, Bounced, Wait, fate_of
from acme_milter.worker.responder import submit
from acme_milter.worker.sighting import Sighting, Unfollowable
from tests.protocol.sample_mail import NOW, SENDER
from tests.worker.conftest import MakeBench, MakeOrderBench
from tests.worker.fickle_smtp import FickleSmtp, Mood
from tests.worker.order_bench import OrderBench
from tests.worker.reply_post import PLACE, Post
from tests.worker.test_postfix_log import GREYLISTED, line

QUEUE_ID = "4Rz1Kd0F2cz"  # what FickleSmtp names


class BenchClock(Clock):
    """The bench's clock, whose pauses pass when it is advanced."""

    def __init__(self, post: Post) -> None:
        self._post = post

    def now(self) -> datetime:
        return self._post.bench.clock()

    def monotonic(self) -> float:
        return self._post.bench.clock().timestamp()


class Watched:
    """A reply that Postfix has taken, and the chore that looks where it is."""

    def __init__(self, post: Post, log: Path) -> None:
        self.post = post
        self.log = log
        self.woken = 0
        self.watch = DepartureWatch(
            place=PLACE,
            config=lambda: post.bench.config,
            database=post.bench.database,
            clock=BenchClock(post),
            work_is_due=self._wake,
        )

    def _wake(self) -> None:
        self.woken += 1

    def log_line(self, status: str, words: str) -> None:
        with self.log.open("ab") as file:
            file.write(line(status, words, queue_id=QUEUE_ID, to=SENDER) + b"\n")

    def look(self, **later: float) -> OutboxEntry:
        self.post.bench.clock.advance(**later or {"seconds": 1})
        self.watch.look()
        return self.post.entry

    @property
    def enrollment(self) -> Enrollment:
        return self.post.bench.enrollment(self.post.enrollment.id)


PostTo = Callable[..., Watched]
"""Makes a reply that is due; the arguments change `reply`."""


@pytest.fixture
def post_to(make_bench: MakeBench, smtp: FickleSmtp, tmp_path: Path) -> Iterator[PostTo]:
    def make(**reply: object) -> Watched:
        log = tmp_path / "mail.log"
        log.write_bytes(b"")
        settings = {"host": "127.0.0.1", "port": smtp.port, "follow": {"log": str(log)}, **reply}
        bench = make_bench(defaults={"reply": settings}, authority={"post_delay": "7s"})
        enrollment = bench.expect()
        assert bench.decide().disposition == "discard"
        made.append(Watched(Post(bench, smtp, enrollment), log))
        return made[-1]

    made: list[Watched] = []
    yield make
    for watched in made:
        for follower in watched.watch._followers.values():
            with suppress(AttributeError):
                follower.close()  # type: ignore[attr-defined]  # a log's has a file open


@pytest.fixture
def watched(post_to: PostTo) -> Watched:
    """Followed by a log; handed over just now."""
    made = post_to()
    made.post.work_off()
    return made


def test_a_reply_that_is_followed_is_not_announced_after_a_mere_pause(watched: Watched) -> None:
    entry = watched.post.entry
    assert (entry.place, entry.followed_since, entry.departure) == (PLACE, NOW, None)
    assert watched.enrollment.next_attempt_at == NOW + NOBODY_LOOKS


def test_the_pause_begins_when_it_has_left(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    assert watched.look(seconds=20).departure is None
    watched.log_line("sent", "250 2.0.0 Taken")
    with caplog.at_level("INFO", LOGGER_NAME):
        entry = watched.look()
    left = NOW + timedelta(seconds=21)
    assert (entry.departure, entry.departure_at, entry.departure_words) == ("sent", left, "250 2.0.0 Taken")
    assert entry.followed_since is None
    assert watched.enrollment.next_attempt_at == left + timedelta(seconds=7)
    assert watched.woken == 1
    assert f"{QUEUE_ID}: reply-left rcpt=<{watched.enrollment.address}>" in caplog.text


def test_one_that_is_late_is_told_at_once_and_followed_on(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    watched.log_line("deferred", GREYLISTED)
    with caplog.at_level("INFO", LOGGER_NAME):
        late = watched.look()
    assert (late.departure, late.departure_words) == ("deferred", GREYLISTED)
    assert late.followed_since is not None
    assert watched.enrollment.next_attempt_at == NOW + timedelta(seconds=1)
    assert f"{QUEUE_ID}: reply-deferred " in caplog.text
    watched.log_line("sent", "250 OK")
    assert watched.look(seconds=11).departure == "sent"


def late(watched: Watched, *, delay: float) -> None:
    """Postfix logs that it was sent in vain so many seconds after it had come."""
    words = line("deferred", GREYLISTED, queue_id=QUEUE_ID, to=SENDER)
    with watched.log.open("ab") as file:
        file.write(words.replace(b"delay=0.4,", b"delay=%d," % delay) + b"\n")


def test_one_that_is_late_counts_as_gone_two_hours_after_the_log_told_of_it_for_the_last_time(
    watched: Watched,
) -> None:
    late(watched, delay=1)
    assert watched.look().departure == "deferred"
    late(watched, delay=4000)
    assert watched.look(minutes=100).departure == "deferred"
    assert watched.look(minutes=80).departure == "deferred"  # 180 minutes, of which 113 without a word
    entry = watched.look(minutes=10)
    assert (entry.departure, entry.followed_since) == ("unknown", None)
    assert "two hours" in (entry.departure_words or "")
    assert watched.enrollment.next_attempt_at == watched.post.bench.clock()


def test_a_worker_that_begins_anew_takes_what_was_logged_long_ago_for_no_news(watched: Watched) -> None:
    late(watched, delay=1)
    watched.look()
    watched.watch._followers.popitem()[1].close()  # type: ignore[attr-defined]  # a log's has a file open
    assert watched.look(minutes=121).departure == "unknown"


def test_one_that_was_late_when_its_log_was_rotated_away_counts_as_gone_after_two_hours(watched: Watched) -> None:
    late(watched, delay=1)
    watched.look()
    watched.watch._followers.popitem()[1].close()  # type: ignore[attr-defined]  # a log's has a file open
    watched.log.write_bytes(b"")
    assert watched.look(minutes=118).departure == "deferred"
    assert watched.look(minutes=3).departure == "unknown"


def test_one_that_was_late_when_following_ended_counts_as_gone_after_two_hours(watched: Watched) -> None:
    late(watched, delay=1)
    watched.look()
    reply = watched.post.bench.config.defaults.reply
    watched.post.bench.configure(
        defaults={"reply": {"host": "127.0.0.1", "port": reply.port, "follow": "none"}}, authority={"post_delay": "7s"}
    )
    assert watched.look(minutes=118).departure == "deferred"
    assert watched.look(minutes=3).departure == "unknown"


def test_one_that_a_queue_still_has_is_late_for_as_long_as_it_is_there(watched: Watched) -> None:
    class Queue:
        pace = 2.0

        def look(self, replies: Sequence[Followed], _now: datetime) -> dict[str, Sighting]:
            return {reply.id: Sighting(Departure.DEFERRED, "451 come again") for reply in replies}

    watched.look()
    for way, follower in list(watched.watch._followers.items()):
        follower.close()  # type: ignore[attr-defined]  # a log's has a file open
        watched.watch._followers[way] = Queue()
    for _ in range(10):
        entry = watched.look(minutes=61)
        assert (entry.departure, entry.departure_at) == ("deferred", watched.post.bench.clock())


def test_one_that_bounced_ends_the_order_now(watched: Watched) -> None:
    watched.log_line("bounced", "550 5.7.26 no")
    entry = watched.look()
    assert (entry.departure, entry.followed_since) == ("bounced", None)
    assert watched.enrollment.next_attempt_at == NOW + timedelta(seconds=1)


def test_one_of_which_nothing_is_heard_counts_as_gone_after_a_minute(watched: Watched) -> None:
    assert watched.look(seconds=60).departure is None
    entry = watched.look(seconds=2)
    assert entry.departure == "unknown"
    assert "nothing about it" in (entry.departure_words or "")
    assert watched.enrollment.next_attempt_at == NOW + timedelta(seconds=62)


def test_what_cannot_be_read_is_said_once_and_the_pause_is_what_it_was(
    post_to: PostTo, caplog: pytest.LogCaptureFixture
) -> None:
    watched = post_to(follow="queue", config_directory="/nonexistent")
    watched.post.work_off()
    with caplog.at_level("INFO", LOGGER_NAME):
        entry = watched.look()
        watched.look()
    assert entry.departure == "unknown"
    assert "main.cf" in (entry.departure_words or "")
    assert watched.enrollment.next_attempt_at == NOW + timedelta(seconds=7)
    assert caplog.text.count("reply-unfollowed") == 1


def test_a_postfix_elsewhere_has_no_queue_here(post_to: PostTo, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = post_to(follow="queue")
    watched.post.work_off()
    monkeypatch.setattr("acme_milter.worker.departure.is_this_machine", lambda _host: False)
    assert "is not this machine" in (watched.look().departure_words or "")


def test_which_machine_this_is() -> None:
    assert [is_this_machine(host) for host in ("127.0.0.1", "localhost", "192.0.2.1", "no.invalid")] == [
        True,
        True,
        False,
        False,
    ]


def test_no_other_hosts_reply_is_looked_for(watched: Watched) -> None:
    with watched.post.bench.database.write() as connection:
        connection.execute(outbox_table.update().values(place="elsewhere"))
    watched.log_line("sent", "250 OK")
    assert watched.look().departure is None


def test_with_nothing_on_its_way_nobody_is_asked_anything(watched: Watched) -> None:
    watched.log_line("sent", "250 OK")
    watched.look()
    watched.watch._config = lambda: pytest.fail("somebody was asked")
    watched.look()


def test_an_order_that_is_over_needs_no_reply(watched: Watched) -> None:
    with watched.post.bench.database.write() as connection:
        connection.execute(enrollment_table.update().values(state="failed", next_attempt_at=None))
    assert (watched.look().followed_since, watched.post.entry.departure) == (None, None)


def test_with_follow_none_nobody_follows(post_to: PostTo) -> None:
    watched = post_to(follow="none")
    assert watched.post.work_off().followed_since is None
    assert watched.enrollment.next_attempt_at == NOW + timedelta(seconds=7)


def entry(
    departure: str | None, *, followed: bool = True, handed: bool = True, ago: timedelta = timedelta(0)
) -> OutboxEntry:
    return OutboxEntry(
        id="o",
        enrollment_id="e",
        challenge_mail_id="c",
        envelope_sender="a@org.example",
        envelope_recipient=SENDER,
        message_id="<m>",
        sealed_reply=b"",
        created_at=NOW,
        next_attempt_at=None,
        sent_at=NOW if handed else None,
        followed_since=NOW if followed else None,
        departure=departure,
        departure_at=NOW - ago if departure else None,
        departure_words="their words",
    )


@pytest.mark.parametrize(
    ("entries", "wait"),
    [
        ([], None),
        ([entry("sent", followed=False)], None),
        ([entry("gone", followed=False)], None),
        ([entry("unknown", followed=False)], None),
        ([entry(None, followed=False)], None),
        ([entry(None)], Wait(NOW + NOBODY_LOOKS)),
        ([entry("deferred")], Wait(None, "the reply waits in Postfix's queue: their words")),
        ([entry("deferred", ago=SILENCE)], Wait(None, "the reply waits in Postfix's queue: their words")),
        ([entry("deferred", ago=SILENCE + timedelta(seconds=1))], None),
        ([entry("sent", followed=False), entry("deferred")], Wait(None, entry("deferred").departure_words)),
        ([entry("sent", followed=False), entry(None, handed=False)], None),
        ([entry("bounced", followed=False), entry("sent", followed=False)], None),
    ],
)
def test_what_an_order_makes_of_it(entries: list[OutboxEntry], wait: Wait | None) -> None:
    found = fate_of(entries, NOW)
    if wait is None or wait.why is None:
        assert found == wait
    else:
        assert found is not None
        assert (found.until, "their words" in (found.why or "")) == (None, True)


def test_an_order_whose_replies_all_bounced_is_over_and_one_that_nobody_follows_goes_on() -> None:
    with pytest.raises(Bounced, match="their words"):
        fate_of([entry("bounced", followed=False)], NOW)
    assert fate_of([entry(None)], NOW + NOBODY_LOOKS) is None


def set_departure(bench: OrderBench, departure: Departure | None, words: str | None, *, on: bool) -> None:
    with bench.database.write() as connection:
        now = bench.clock()
        values = {
            "departure": departure, "departure_words": words, "departure_at": now, "followed_since": now if on else None
        }  # fmt: skip
        connection.execute(outbox_table.update().values(values))


def test_the_challenge_is_posted_only_when_the_reply_has_left(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    bench.site.authority.set_knobs(VALIDATE_AT="post")
    replied = bench.answer_mail(bench.step_until(bench.open(), State.AWAITING_MAIL))
    set_departure(bench, Departure.DEFERRED, "451 come again", on=True)
    waiting = bench.step(replied)
    assert waiting.state is State.REPLIED
    assert "451 come again" in (waiting.last_error or "")
    assert bench.happened("challenge-posted") == []
    set_departure(bench, Departure.SENT, "250 OK", on=False)
    assert bench.step_until(waiting, State.ACTIVE).state is State.ACTIVE


def test_a_bounced_reply_costs_the_order_and_the_next_one_waits(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    replied = bench.answer_mail(bench.step_until(bench.open(), State.AWAITING_MAIL))
    set_departure(bench, Departure.BOUNCED, "550 5.7.26 not authenticated", on=False)
    failed = bench.step(replied)
    assert failed.state is State.FAILED
    assert failed.last_error == "the reply bounced: 550 5.7.26 not authenticated"
    assert failed.successor_id is not None
    following = bench.get(failed.successor_id)
    assert following.next_attempt_at is not None
    assert following.next_attempt_at > bench.clock() + timedelta(minutes=25)


def test_a_late_reply_is_no_trouble_any_more_when_its_order_is_over_and_its_host_gone(
    make_orders: MakeOrderBench,
) -> None:
    bench = make_orders()
    replied = bench.answer_mail(bench.step_until(bench.open(), State.AWAITING_MAIL))
    set_departure(bench, Departure.DEFERRED, "451 come again", on=True)
    later = bench.clock() + timedelta(minutes=20)

    def told() -> list[str]:
        with bench.database.read() as connection:
            return [
                text for _kind, text, _command in in_the_way.needs(connection, {"caa": [], "authorities": []}, later)
            ]

    def followed_after_tidying() -> bool:
        Janitor(database=bench.database, clock=bench.clock).tidy()
        with bench.database.read() as connection:
            return connection.execute(sa.select(outbox_table.c.followed_since)).scalar_one() is not None

    (text,) = told()
    assert text.startswith("1 reply waits in Postfix's queue, for ")
    assert text.endswith(" minutes: 451 come again")
    assert followed_after_tidying()
    with bench.moved_ahead(hours=24, minutes=1):
        assert bench.step(replied).state is State.FAILED
    assert told() == []
    assert not followed_after_tidying()


def test_an_order_that_has_been_answered_waits_for_no_departure(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    replied = bench.answer_mail(bench.step_until(bench.open(), State.AWAITING_MAIL))
    set_departure(bench, Departure.DEFERRED, "451 come again", on=True)
    assert bench.step_until(replied, State.ACTIVE).state is State.ACTIVE
    assert bench.happened("challenge-posted") == []


def test_the_challenge_is_posted_two_hours_after_a_late_reply_was_last_seen(make_orders: MakeOrderBench) -> None:
    """Its host is down, say, and nobody will ever tell."""
    bench = make_orders()
    bench.site.authority.set_knobs(VALIDATE_AT="post")
    replied = bench.answer_mail(bench.step_until(bench.open(), State.AWAITING_MAIL))
    set_departure(bench, Departure.DEFERRED, "451 come again", on=True)
    with bench.moved_ahead(minutes=119):
        waiting = bench.step(replied)
    assert waiting.state is State.REPLIED
    with bench.moved_ahead(minutes=121):
        assert bench.step(waiting).state is State.VALIDATING


def test_a_reply_that_is_late_for_a_day_is_the_reason_that_is_told(make_orders: MakeOrderBench) -> None:
    bench = make_orders()
    bench.site.authority.set_knobs(VALIDATE_AT="post")
    replied = bench.answer_mail(bench.step_until(bench.open(), State.AWAITING_MAIL))
    set_departure(bench, Departure.DEFERRED, "451 come again", on=True)
    waiting = bench.step(replied)
    with bench.moved_ahead(hours=24, minutes=1):
        failed = bench.step(waiting)
    assert failed.state is State.FAILED
    assert "451 come again" in (failed.last_error or "")


def test_auto_posts_a_second_time_where_the_first_one_was_forgotten(make_orders: MakeOrderBench) -> None:
    bench = make_orders(authority={"challenge_trigger": "auto", "auto_post_after": "1s"})
    bench.site.authority.set_knobs(MAIL_DELAY=0.6, EARLY_POST_FORGOTTEN="on", VALIDATE_AT="post")
    awaiting = bench.step(bench.step_until(bench.open(), State.AWAITING_MAIL))
    assert awaiting.challenge_posted_at is not None
    assert bench.step_until(bench.answer_mail(awaiting), State.ACTIVE).state is State.ACTIVE
    assert [event["first"] for event in bench.happened("challenge-posted")] == [True, True]


class RealQueue:
    """A real Postfix whose way to the CA ends at a server with moods."""

    def __init__(self, postfix: PostfixLab, smtp: FickleSmtp) -> None:
        self.postfix = postfix
        self.smtp = smtp
        self.follower = QueueFollower(postfix.config_directory)

    def send(self, bench: Post) -> Followed:
        settings = bench.bench.config.defaults.reply.model_copy(update={"port": self.postfix.reply_port})
        raw = b"From: a@org.example\r\nTo: b@ca.example\r\nMessage-ID: <acme-milter.1@org.example>\r\n\r\nx\r\n"
        queue_id = submit(raw, "a@org.example", "b@ca.example", settings)
        return Followed(
            id="r",
            enrollment_id="e",
            address="a@org.example",
            authority="ca",
            state=State.REPLIED,
            envelope_sender="a@org.example",
            envelope_recipient="b@ca.example",
            message_id="<acme-milter.1@org.example>",
            queue_id=queue_id,
            sent_at=Clock().now(),
            departure=None,
            departure_words=None,
        )

    def look(self, reply: Followed) -> Sighting | None:
        return self.follower.look([reply], Clock().now()).get(reply.id)


@pytest.fixture
def real_queue(smtp: FickleSmtp) -> Iterator[RealQueue]:
    scratch = Path(tempfile.mkdtemp(prefix="q-"))
    scratch.chmod(0o755)
    postfix = PostfixLab(
        scratch / "postfix", domains={"org.example": ["a"]}, ca_routes={"ca.example": ("127.0.0.1", smtp.port)}
    )
    try:
        postfix.start()
        yield RealQueue(postfix, smtp)
    finally:
        postfix.remove()
        shutil.rmtree(scratch, ignore_errors=True)


def test_a_real_queue_tells_what_waits_and_why_and_what_has_gone(real_queue: RealQueue, post: Post) -> None:
    real_queue.smtp.mood, real_queue.smtp.refusal = Mood.REFUSES_CONTENT, "451 4.7.1 come again"
    reply = real_queue.send(post)
    wait_until(lambda: (real_queue.look(reply) or Sighting(Departure.UNKNOWN)).words is not None, "the reason")
    late = real_queue.look(reply)
    assert late is not None
    assert late.departure is Departure.DEFERRED
    assert "451 4.7.1 come again" in (late.words or "")
    real_queue.smtp.mood = Mood.TAKES
    real_queue.postfix.flush()
    real_queue.postfix.wait_for_empty_queue()
    assert [real_queue.look(reply), real_queue.look(reply)] == [None, Sighting(Departure.GONE)]


@pytest.mark.parametrize(("groups", "allowed"), [(["--groups", "postdrop"], True), (["--clear-groups"], False)])
def test_a_sandbox_without_new_privileges_needs_postfixs_group(
    real_queue: RealQueue, groups: list[str], allowed: bool
) -> None:
    """As contrib/systemd has it: postqueue's setgid bit does nothing there."""
    sandbox = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", *groups, "--no-new-privs"]
    argv = [*sandbox, "/usr/sbin/postqueue", "-c", str(real_queue.postfix.config_directory), "-j"]
    assert (subprocess.run(argv, capture_output=True, check=False).returncode == 0) is allowed


def test_a_postfix_that_does_not_run_tells_nothing(tmp_path: Path, watched: Watched) -> None:
    with watched.post.bench.database.read() as connection:
        (reply,) = departures.followed(connection, PLACE)
    with pytest.raises(Unfollowable, match="postqueue: "):
        QueueFollower(tmp_path).look([reply], NOW)
    with watched.post.bench.database.read() as connection:
        assert connection.execute(sa.select(outbox_table.c.departure)).scalar_one() is None
