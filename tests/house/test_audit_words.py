# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever the audit trail notes of a mailbox is in words in its timeline."""

import ast
from collections.abc import Iterator

from acme_milter.enrollment.state_machine import TRANSITIONS
from acme_milter.eventlog import Event
from acme_milter.report.mailbox_timeline import STEPS, TOLD
from acme_milter.report.noted_words import NOTED
from tests.house.test_layers import PACKAGE, SOURCES

IN_WORDS = {*NOTED, *TOLD, *STEPS}
ELSEWHERE = {
    # The functions that note what they are told to: their callers name the word.
    ("worker/delivery_calls.py", "event"),
    ("worker/delivery_job.py", "event"),
    # A choice of DELIVERY_ASKED and WITHDRAWAL_ASKED, a line before.
    ("worker/delivery_results.py", "event"),
    # The step's name, see the test of these.
    ("worker/leaving.py", "type(event).__name__"),
    ("worker/scheduler.py", "type(step.event).__name__"),
    # See the test of these.
    ("worker/mailbox_writing.py", "word or ''"),
    # The event by another name.
    ("worker/admission.py", "Happened.CHALLENGE_ACCEPTED"),
}
NOTING = {"_note": "worker/delivery_calls.py", "note_delivery": None}
"""Besides `audit.record`, and where; None: anywhere."""


def noted() -> Iterator[tuple[str, str]]:
    """(file, word as it is written there) of everything that is noted of a mailbox."""
    for path in SOURCES:
        file = path.relative_to(PACKAGE).as_posix()
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or len(call.args) < 2:
                continue
            called = ast.unparse(call.func)
            records = called == "audit.record" and any(one.arg == "address" for one in call.keywords)
            if (called == "record" and file == "store/audit.py") or not (
                records or (called in NOTING and NOTING[called] in {None, file})
            ):
                continue
            yield file, ast.unparse(call.args[1])


def test_every_event_that_is_noted_of_a_mailbox_has_words() -> None:
    found = set(noted())
    assert len(found) > 15
    assert found >= ELSEWHERE
    for file, word in sorted(found - ELSEWHERE):
        room, _, name = word.partition(".")
        assert room == "Event", f"{file} notes {word}: name the word, or say in ELSEWHERE where that is done"
        assert Event[name] in IN_WORDS, f"{file} notes {word}, for which acme_milter/report/noted_words.py has no words"


def test_every_step_that_is_noted_has_words() -> None:
    steps = {event.__name__ for (state, event), to in TRANSITIONS.items() if to is not state}
    assert steps <= set(STEPS)


def test_every_change_of_a_source_that_is_noted_has_words() -> None:
    tree = ast.parse((PACKAGE / "worker" / "mailbox_writing.py").read_text(encoding="utf-8"))
    (function,) = (
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "_by_audit_word"
    )
    (table,) = (node for node in ast.walk(function) if isinstance(node, ast.Dict))
    words = {
        key.value if isinstance(key, ast.Constant) else Event[ast.unparse(key).removeprefix("Event.")].value
        for key in table.keys
        if key is not None
    }
    assert len(words) > 4
    assert words - {None} <= IN_WORDS
