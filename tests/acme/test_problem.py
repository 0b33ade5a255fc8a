# SPDX-License-Identifier: GPL-3.0-or-later
"""Problem documents, and the text people get to see."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_milter.acme.problem import BadAnswer, ErrorType, Problem, RateLimited, ServerBusy, ServerRefused, printable

URN = "urn:ietf:params:acme:error:"


def test_subproblems_carry_their_identifier() -> None:
    document = {
        "type": f"{URN}malformed",
        "detail": "Some of the identifiers requested were rejected",
        "status": 403,
        "subproblems": [
            {"type": f"{URN}malformed", "detail": "Bad", "identifier": {"type": "email", "value": "a@example.org"}},
            {"type": f"{URN}rejectedIdentifier", "identifier": {"type": "email", "value": "b@example.org"}},
        ],
    }
    problem = Problem.parse(document)
    assert [(sub.kind, sub.identifier) for sub in problem.subproblems] == [
        (ErrorType.MALFORMED, "a@example.org"),
        (ErrorType.REJECTED_IDENTIFIER, "b@example.org"),
    ]
    assert str(problem) == (
        "malformed 403: Some of the identifiers requested were rejected; "
        "a@example.org: malformed: Bad; b@example.org: rejectedIdentifier"
    )


def test_text_for_people_is_one_bounded_printable_line() -> None:
    problem = Problem.parse({"type": "x\r\ny", "detail": "a\x1b[31m\u202e\u2028\x85 é\r\nFrom: b" + "z" * 9000})
    shown = str(problem)
    assert shown.isprintable()
    assert len(shown) <= 600
    assert "\\x1b[31m" in shown
    assert "é" in shown
    assert shown.endswith("…")


@pytest.mark.parametrize("error", [ServerRefused, RateLimited, ServerBusy, BadAnswer])
def test_every_exception_text_is_safe_to_log(error: type[ServerBusy]) -> None:
    assert str(error("a\r\nb\x00")) == "a\\r\\nb\\x00"
    assert error.safe_text


def test_an_unknown_type_is_ignored_but_shown() -> None:
    problem = Problem.parse({"type": f"{URN}brandNew", "detail": "hm"}, status=400)
    assert problem.kind is None
    assert not problem.temporary
    assert str(problem) == "brandNew 400: hm"


def test_the_type_of_another_registry_is_not_taken_for_ours() -> None:
    assert Problem.parse({"type": "https://example.org/badNonce"}).kind is None


@pytest.mark.parametrize(
    ("kind", "temporary", "needs_operator"),
    [
        (ErrorType.RATE_LIMITED, True, False),
        (ErrorType.SERVER_INTERNAL, True, False),
        (ErrorType.ORDER_NOT_READY, True, False),
        (ErrorType.DNS, True, False),
        (ErrorType.REJECTED_IDENTIFIER, False, True),
        (ErrorType.CAA, False, True),
        (ErrorType.USER_ACTION_REQUIRED, False, True),
        (ErrorType.BAD_CSR, False, True),
        (ErrorType.INVALID_PROFILE, False, True),
        (ErrorType.INCORRECT_RESPONSE, False, False),
        (ErrorType.MALFORMED, False, False),
    ],
)
def test_each_type_says_whether_waiting_or_a_person_helps(
    kind: ErrorType, temporary: bool, needs_operator: bool
) -> None:
    problem = Problem.of(kind, "detail")
    assert (problem.temporary, problem.needs_operator) == (temporary, needs_operator)


def test_a_compound_problem_is_as_bad_as_its_worst_part() -> None:
    parts = [{"type": f"{URN}dns"}, {"type": f"{URN}caa"}]
    problem = Problem.parse({"type": f"{URN}compound", "subproblems": parts})
    assert not problem.temporary
    assert problem.needs_operator
    assert Problem.parse({"type": f"{URN}compound", "subproblems": parts[:1]}).temporary


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "detail", "title", "status", "subproblems", "identifier", "value", "algorithms"]),
            inner,
        )
    ),
    max_leaves=12,
)


@given(JSON_VALUES)
def test_no_document_makes_the_parser_raise(document: object) -> None:
    problem = Problem.parse(document, status=400)
    assert str(problem).isprintable()
    assert len(str(problem)) <= 600
    json.dumps([sub.type for sub in problem.subproblems])


@given(st.text(), st.integers(min_value=1, max_value=50))
def test_printable_keeps_its_limit(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()
