# SPDX-License-Identifier: GPL-3.0-or-later
"""The header block: kept to the octet, read in one way, refused otherwise."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_milter.protocol.faults import MailFault, MailRefused
from acme_milter.protocol.headers import (
    DuplicateHeader,
    HeaderField,
    Headers,
    MalformedHeader,
    MissingHeader,
    split_message,
    unfold,
)


def test_fields_keep_their_octets_and_their_order() -> None:
    headers, body = split_message(b"A:1\r\nb: two\r\n\tfolds\r\n  here \r\nA:  3\r\n\r\nbody\r\n")
    assert headers.fields == (
        HeaderField(b"A", b"1"),
        HeaderField(b"b", b" two\r\n\tfolds\r\n  here "),
        HeaderField(b"A", b"  3"),
    )
    assert headers.all(b"a") == (HeaderField(b"A", b"1"), HeaderField(b"A", b"  3"))
    assert headers.names == {b"a", b"b"}
    assert body == b"body\r\n"
    assert unfold(headers.exactly_one(b"B").value) == b" two\tfolds  here "


def test_singletons_are_counted_without_regard_to_case() -> None:
    headers = Headers.from_block(b"To: a\r\nTO: b\r\nCc: c\r\n")
    with pytest.raises(DuplicateHeader) as caught:
        headers.at_most_one(b"to")
    assert (caught.value.fault, caught.value.detail) == (MailFault.DUPLICATE_HEADER, "to occurs more than once")
    with pytest.raises(MissingHeader):
        headers.exactly_one(b"Subject")
    assert headers.at_most_one(b"Subject") is None
    assert headers.exactly_one(b"cc").value == b" c"


@pytest.mark.parametrize(
    ("block", "fault"),
    [
        (b"A: 1\r\nSubject : x", MailFault.BLANK_BEFORE_COLON),
        (b"A: 1\r\nSubject\t: x", MailFault.BLANK_BEFORE_COLON),
        (b"A: 1\r\nFrom acme@ca.example Sat Dec  5 10:08:55 2020", MailFault.HEADER_SYNTAX),
        (b"", MailFault.HEADER_SYNTAX),
        (b" A: 1", MailFault.HEADER_SYNTAX),
        (b"A: 1\r\nno colon", MailFault.HEADER_SYNTAX),
        (b"A: 1\r\n: empty", MailFault.HEADER_SYNTAX),
        (b"A: 1\r\n\r\nB: 2", MailFault.HEADER_SYNTAX),
        (b"A: 1\r\nB C: 2", MailFault.HEADER_SYNTAX),
        ("A: 1\r\nSübject: 2".encode(), MailFault.HEADER_SYNTAX),
        (b"A: 1\r\n \r\n b", MailFault.HEADER_SYNTAX),
        (b"A: 1\r\n\t ", MailFault.HEADER_SYNTAX),
        (b"A: 1\nB: 2", MailFault.BARE_NEWLINE),
        (b"A: 1\rB: 2", MailFault.BARE_NEWLINE),
        (b"A: 1\n\r\nB: 2", MailFault.BARE_NEWLINE),
        (b"A: 1\r\r\nB: 2", MailFault.BARE_NEWLINE),
        (b"A: 1\0", MailFault.HEADER_CONTROL_CHARACTER),
        (b"A: \x1b[31m", MailFault.HEADER_CONTROL_CHARACTER),
        (b"A: \x0b", MailFault.HEADER_CONTROL_CHARACTER),
        (b"A: \x7f", MailFault.HEADER_CONTROL_CHARACTER),
        (b"A: " + b"x" * 65_536, MailFault.HEADER_BLOCK_TOO_LARGE),
        (b"A: 1\r\n" * 201, MailFault.TOO_MANY_HEADERS),
    ],
    ids=lambda value: ascii(value[:30]) if isinstance(value, bytes) else "",
)
def test_block_with_more_than_one_reading_is_refused(block: bytes, fault: MailFault) -> None:
    with pytest.raises(MalformedHeader) as caught:
        Headers.from_block(block)
    assert caught.value.fault is fault


def test_limits_are_inclusive() -> None:
    assert len(Headers.from_block(b"A: 1\r\n" * 200).fields) == 200
    assert len(Headers.from_block(b"A: " + b"x" * (65_536 - 5) + b"\r\n").fields) == 1


def test_mail_without_an_empty_line_is_all_header() -> None:
    headers, body = split_message(b"A: 1\r\nB: 2")
    assert (len(headers.fields), body) == (2, b"")
    with pytest.raises(MalformedHeader) as caught:
        split_message(b"A: 1\r\n" * 100_000)
    assert caught.value.fault is MailFault.HEADER_BLOCK_TOO_LARGE


@given(st.binary(max_size=300))
def test_any_octets_give_headers_or_a_refusal_and_headers_lose_nothing(raw: bytes) -> None:
    try:
        headers = Headers.from_block(raw)
    except MalformedHeader:
        return
    assert b"\r\n".join(item.name + b":" + item.value for item in headers.fields) == raw.removesuffix(b"\r\n")


@pytest.mark.parametrize(
    "bomb",
    [
        b" " * 60_000,
        b"A:" + b" " * 60_000,
        b"A:" + b"\t" * 60_000,
        b"A: x" + b"\r\n x" * 15_000,
        b"A:" + b"=" * 60_000,
        b"\r\n" * 30_000,
        b":" * 60_000,
        b"A" * 60_000,
        b" :" * 30_000,
        b"A: 1\r\n" * 10_000,
    ],
    ids=lambda bomb: ascii(bomb[:8]),
)
def test_hostile_block_costs_no_time(bomb: bytes) -> None:
    started = time.process_time()
    try:
        headers, _ = split_message(bomb)
    except MailRefused:
        pass
    else:
        for item in headers.fields:
            unfold(item.value)
    assert time.process_time() - started < 0.05
