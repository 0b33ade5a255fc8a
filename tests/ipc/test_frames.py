# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames: what goes in comes out; what is no frame is refused."""

import json
import socket
import struct
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_milter.ipc.frames import MAX_FRAME, FrameError, receive_frame, send_frame

Pair = tuple[socket.socket, socket.socket]

_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def _raw(header: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">II", len(header), len(body)) + header + body


@given(header=st.dictionaries(st.text(), _json_values, max_size=5), body=st.binary(max_size=2000))
def test_a_frame_arrives_as_it_was_sent(header: dict[str, object], body: bytes) -> None:
    left, right = socket.socketpair()
    with left, right:
        send_frame(left, header, body)
        assert receive_frame(right) == (header, body)


@given(noise=st.binary(max_size=64))
def test_noise_is_a_frame_error_or_a_clean_end_and_never_anything_else(noise: bytes) -> None:
    left, right = socket.socketpair()
    with right:
        with left:
            left.sendall(noise)
        try:
            received = receive_frame(right)
        except FrameError:
            return
        assert received is None or isinstance(received[0], dict)


def test_frames_follow_each_other_on_one_stream(pair: Pair) -> None:
    for number in range(3):
        send_frame(pair[0], {"n": number}, bytes([number]) * number)
    assert [receive_frame(pair[1]) for _ in range(3)] == [
        ({"n": 0}, b""),
        ({"n": 1}, b"\x01"),
        ({"n": 2}, b"\x02\x02"),
    ]


def test_a_stream_that_ends_between_frames_is_none(pair: Pair) -> None:
    pair[0].close()
    assert receive_frame(pair[1]) is None


@pytest.mark.parametrize("kept", [1, 7, 8, 9, 14])
def test_a_frame_that_is_cut_short_is_refused(pair: Pair, kept: int) -> None:
    pair[0].sendall(_raw(b'{"a":1}', b"body")[:kept])
    pair[0].close()
    with pytest.raises(FrameError, match="cut short"):
        receive_frame(pair[1])


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"1",
        b"\xff\xfe",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":' + b"9" * 5000 + b"}",
    ],
    ids=[
        "empty",
        "open",
        "list",
        "string",
        "number",
        "not-utf8",
        "nan",
        "infinity",
        "deep-list",
        "deep",
        "long-int",
    ],
)
def test_a_header_that_is_no_json_object_is_refused(pair: Pair, header: bytes) -> None:
    pair[0].setblocking(True)
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_FRAME * 2)
    pair[0].sendall(_raw(header)[:200_000])
    pair[0].close()
    with pytest.raises(FrameError):
        receive_frame(pair[1])


def test_a_frame_announced_too_large_is_refused_before_it_is_read(pair: Pair) -> None:
    pair[0].sendall(struct.pack(">II", 2, MAX_FRAME - 1))
    with pytest.raises(FrameError, match="exceeds"):
        receive_frame(pair[1])


def test_a_frame_too_large_is_not_sent(pair: Pair) -> None:
    with pytest.raises(FrameError, match="exceeds"):
        send_frame(pair[0], {}, bytes(MAX_FRAME))
    pair[0].close()
    assert receive_frame(pair[1]) is None


@pytest.mark.parametrize("value", [b"bytes", float("nan"), object()])
def test_a_header_that_is_no_json_is_not_sent_and_not_quoted(pair: Pair, value: object) -> None:
    with pytest.raises(FrameError) as caught:
        send_frame(pair[0], {"secret": "CANARY", "value": value})
    assert "CANARY" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_the_deadline_is_for_the_whole_frame_however_slowly_it_drips(pair: Pair) -> None:
    pair[0].sendall(b"\x00")
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        receive_frame(pair[1], deadline=begun + 0.1)
    assert time.monotonic() - begun < 1


def test_text_that_utf8_cannot_carry_still_travels(pair: Pair) -> None:
    header: dict[str, object] = {"text": b"\xff".decode("utf-8", "surrogateescape")}
    send_frame(pair[0], header)
    assert receive_frame(pair[1]) == (header, b"")
    assert json.dumps(header).isascii()
