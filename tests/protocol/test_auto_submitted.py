# SPDX-License-Identifier: GPL-3.0-or-later
"""Auto-Submitted by RFC 3834 §5.1."""

import time

import pytest

from acme_milter.protocol.auto_submitted import InvalidAutoSubmitted, parse_auto_submitted


@pytest.mark.parametrize(
    ("value", "keyword"),
    [
        (b" auto-generated", "auto-generated"),
        (b" auto-generated; type=acme", "auto-generated"),
        (b"Auto-Generated ;type=acme", "auto-generated"),
        (b" AUTO-GENERATED\r\n ;\r\n\ttype=acme", "auto-generated"),
        (b' (by (our) CA) auto-generated (really) ; type=acme; x="y"', "auto-generated"),
        (b" auto-generated (a \\) b \\( c)", "auto-generated"),
        (b" auto-generated; (unbalanced", "auto-generated"),
        (b" auto-replied", "auto-replied"),
        (b" no", "no"),
        (b' auto-notified; owner-email="a@b.example"', "auto-notified"),
    ],
)
def test_keyword_is_found_amid_comments_and_parameters(value: bytes, keyword: str) -> None:
    assert parse_auto_submitted(value) == keyword


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b" ;type=acme",
        b" auto-generated type=acme",
        b" auto-generated, no",
        b" auto generated",
        b" (auto-generated)",
        b" auto-generated (open",
        b" auto-generated)",
        b" auto-generated (a\\",
        b' "auto-generated"',
        b" auto-generated\0",
        "ä".encode(),
    ],
)
def test_value_without_one_keyword_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidAutoSubmitted):
        parse_auto_submitted(value)


@pytest.mark.parametrize(
    "bomb", [b"(" * 60_000, b"()" * 30_000, b"\\" * 60_000, b" " * 60_000, b"a " * 30_000, b"(\\" * 30_000]
)
def test_hostile_value_costs_no_time(bomb: bytes) -> None:
    started = time.process_time()
    with pytest.raises(InvalidAutoSubmitted):
        parse_auto_submitted(bomb)
    assert time.process_time() - started < 0.05
