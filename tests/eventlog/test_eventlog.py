# SPDX-License-Identifier: GPL-3.0-or-later
"""Log lines: their stable form, and that nothing can break one or carry a secret into one."""

import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_milter.eventlog import (
    Event,
    configure_logging,
    format_event,
    log_event,
    log_exception,
)

CANARY = "canary-7f3a-secret"


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What this process logs from here on, as text; logging is put back as it was afterwards."""
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    root, ours = logging.getLogger(), logging.getLogger("acme_milter")
    before = (list(root.handlers), root.level, ours.level)
    out = io.StringIO()
    configure_logging("worker", stream=out)
    yield out
    root.handlers[:], root.level, _ = before
    ours.setLevel(before[2])


def test_line_has_program_role_queue_id_event_and_fields(stream: io.StringIO) -> None:
    log_event(
        Event.CHALLENGE_ACCEPTED,
        queue_id="4Vx1Qz3kLmz9rT",
        rcpt="alice@example.com",
        ca="pubca",
        from_="acme@ca.example",
        dkim="pass",
        d="ca.example",
        action="discard",
    )
    assert stream.getvalue() == (
        "acme-milter[worker]: 4Vx1Qz3kLmz9rT: challenge-accepted rcpt=<alice@example.com> ca=pubca"
        " from=<acme@ca.example> dkim=pass d=ca.example action=discard\n"
    )


def test_no_queue_id_is_a_dash_and_none_is_left_out(stream: io.StringIO) -> None:
    log_event(Event.ORDER_VALID, serial="04:9c", reason=None)
    assert stream.getvalue() == "acme-milter[worker]: -: order-valid serial=04:9c\n"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (True, "1"),
        (False, "0"),
        (59, "59"),
        (timedelta(seconds=1.5), "1.5s"),
        (datetime(2027, 11, 22, 1, 2, 3, tzinfo=UTC), "2027-11-22T01:02:03Z"),
        (Event.ROLE_DIED, "role-died"),
        ("", '""'),
        ("two words", '"two words"'),
        ('say "no"', r'"say \"no\""'),
        ("a\r\nb\x1b[31m", r'"a\r\nb\x1b[31m"'),
        ("\u2028\u202e\x85", r'"\u2028\u202e\x85"'),
        ("jörg@example.org", "jörg@example.org"),
        (b"raw\xff", r'"raw\udcff"'),
        ("k=v", "k=v"),
        ("<x>", '"<x>"'),
        (ValueError(CANARY), "ValueError"),
        ("x" * 600, "x" * 500 + "..."),
    ],
)
def test_values_are_written_plainly_or_quoted(value: object, written: str) -> None:
    assert format_event(Event.ROLE_STARTED, None, {"v": value}) == f"-: role-started v={written}"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("jörg@example.org", "<jörg@example.org>"),
        ("a b@example.org", '"a b@example.org"'),
        ("a>x@b", "a>x@b"),
        ("root", "root"),
    ],
)
def test_address_fields_are_in_angle_brackets_only_when_they_hold_an_address(value: str, written: str) -> None:
    assert format_event(Event.ROLE_STARTED, None, {"rcpt": value}) == f"-: role-started rcpt={written}"


anything = st.one_of(
    st.text(),
    st.text(alphabet='\r\n\x1b\x00\x7f\x85\u2028\u2029\u202e "\\=<>@a;\t\x0b\x0c\x1c\x1d\x1e'),
    st.binary(),
    st.integers(),
    st.none(),
    st.booleans(),
    st.lists(st.text()),
)


@given(value=anything, key=st.text(), queue_id=st.one_of(st.none(), st.text()))
def test_no_value_key_or_queue_id_makes_a_second_line_or_a_control_character(
    value: object, key: str, queue_id: str | None
) -> None:
    line = format_event(Event.CHALLENGE_REFUSED, queue_id, {key: value, "rcpt": value, "end": "1"})
    assert line.isprintable()
    assert len(line.splitlines()) == 1
    assert line.endswith(" end=1")


@given(text=st.text())
def test_a_quoted_value_never_closes_its_quotes_early(text: str) -> None:
    line = format_event(Event.CHALLENGE_REFUSED, None, {"v": text})
    written = line.removeprefix("-: challenge-refused v=")
    if written.startswith('"'):
        inner = written[1:-1].replace("\\\\", "").replace('\\"', "")
        assert '"' not in inner
        assert "\\" not in inner.removesuffix("\\")[-1:]
    else:
        assert " " not in written


def _fail_with(secret: str) -> None:
    key = secret.encode()
    raise ValueError(f"cannot use {key!r}")


def test_an_exception_is_named_by_type_and_place_never_by_text_or_locals(stream: io.StringIO) -> None:
    try:
        _fail_with(CANARY)
    except ValueError as error:
        log_exception(Event.INTERNAL_ERROR, error, queue_id="4Vx", rcpt="a@example.org")
    line = stream.getvalue()
    assert "canary" not in line
    assert "error=ValueError" in line
    assert "at=test_eventlog.py:" in line
    assert line.count("\n") == 1


def test_the_place_of_an_exception_is_our_innermost_frame(stream: io.StringIO) -> None:
    class Hostile:
        def __str__(self) -> str:
            raise KeyError(CANARY)

    try:
        format_event(Event.ROLE_STARTED, None, {"v": Hostile()})
    except KeyError as error:
        log_exception(Event.INTERNAL_ERROR, error)
    assert "at=eventlog.py:" in stream.getvalue()
    assert "canary" not in stream.getvalue()


def test_only_an_exception_class_that_vouches_for_its_text_has_it_logged(stream: io.StringIO) -> None:
    class SafeError(Exception):
        safe_text = True

    error = SafeError("the CA said: no")
    error.__cause__ = OSError(28, CANARY)
    log_exception(Event.ORDER_FAILED, error)
    log_exception(Event.STORE_UNAVAILABLE, OSError(28, CANARY))
    first, second = stream.getvalue().splitlines()
    assert first.endswith('error=SafeError cause=OSError detail="the CA said: no"')
    assert "errno=ENOSPC" in second
    assert "canary" not in stream.getvalue()


def test_a_librarys_record_is_shown_without_its_arguments(stream: io.StringIO) -> None:
    library = logging.getLogger("some.library")
    library.warning("token is %s\n", CANARY)
    library.error(f"token is {CANARY}")  # what careless libraries do
    library.info("dull")
    try:
        _fail_with(CANARY)
    except ValueError:
        library.exception("failed")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert all("library-message logger=some.library" in line for line in lines)
    assert "template=" in lines[0]
    assert "error=ValueError" in lines[2]
    assert "canary" not in stream.getvalue()


def test_the_journal_gets_a_priority(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    journal = io.StringIO()
    configure_logging("keyd", stream=journal)
    log_event(Event.ROLE_STARTED)
    log_event(Event.ROLE_DIED, level=logging.ERROR)
    assert journal.getvalue() == "<6>acme-milter[keyd]: -: role-started\n<3>acme-milter[keyd]: -: role-died\n"
    assert stream.getvalue() == "", "configuring again replaces the former handler"


def test_an_inherited_journal_variable_does_not_count_for_another_file(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    with path.open("w") as log:
        monkeypatch.setenv("JOURNAL_STREAM", "1:2")
        configure_logging("run", stream=log)
        log_event(Event.ROLE_STARTED)
        status = os.fstat(log.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        configure_logging("run", stream=log)
        log_event(Event.ROLE_STARTED)
    assert [line[:3] for line in path.read_text().splitlines()] == ["acm", "<6>"]


def test_threads_do_not_mix_their_lines(stream: io.StringIO) -> None:
    def write(number: int) -> None:
        for _ in range(200):
            log_event(Event.ENROLLMENT_STEP, n=number, text="x" * 50)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 800
    assert {line.rstrip("x") for line in lines} == {
        f"acme-milter[worker]: -: enrollment-step n={n} text=" for n in range(4)
    }


def test_uncaught_exceptions_are_one_line_each_without_their_text() -> None:
    code = (
        "import threading\nfrom acme_milter import eventlog\n"
        "eventlog.configure_logging('worker'); eventlog.log_uncaught_exceptions()\n"
        f"def boom(): raise ValueError('{CANARY}')\n"
        "t = threading.Thread(target=boom, name='w-1'); t.start(); t.join()\nboom()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert len(lines) == 2
    assert "thread=w-1" in lines[0]
    assert all("internal-error" in line for line in lines)
    assert "canary" not in done.stderr


def test_a_broken_stream_neither_raises_nor_prints(capsys: pytest.CaptureFixture[str], stream: io.StringIO) -> None:
    stream_gone = io.StringIO()
    configure_logging("worker", stream=stream_gone)
    stream_gone.close()
    log_event(Event.ROLE_STARTED, text=CANARY)
    assert capsys.readouterr().err == ""
    configure_logging("worker", stream=stream)
