# SPDX-License-Identifier: GPL-3.0-or-later
"""One frame on a stream socket: two 4-byte big-endian lengths, a JSON object in UTF-8, a binary body.

The lengths come first so that a frame which is too large is refused before a byte of it is read.
"""

import json
import socket
import struct
import time
from collections.abc import Mapping

MAX_FRAME = 1024 * 1024
"""The most octets a frame's header and body may have together."""

_LENGTHS = struct.Struct(">II")


class FrameError(Exception):
    """What was sent, or was to be sent, is no frame. The stream cannot be used any further."""

    safe_text = True


def send_frame(
    sock: socket.socket, header: Mapping[str, object], body: bytes = b"", *, descriptor: int | None = None
) -> None:
    """Write one frame. The socket's own timeout bounds the whole of it. With an open file's `descriptor`, the peer gets
    one of its own of the same open file (SCM_RIGHTS, unix(7)), if it takes any.

    Raises FrameError, with nothing sent, when the header is no JSON object or the frame exceeds MAX_FRAME;
    OSError when the peer is gone or too slow.
    """
    try:
        encoded = json.dumps(header, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError):
        # The cause is left out: its text may quote a value of the header.
        raise FrameError("the header cannot be written as JSON") from None
    if len(encoded) + len(body) > MAX_FRAME:
        raise FrameError(f"a frame of {len(encoded) + len(body)} octets exceeds {MAX_FRAME}")
    frame = b"".join((_LENGTHS.pack(len(encoded), len(body)), encoded, body))
    sent = 0 if descriptor is None else socket.send_fds(sock, [frame], [descriptor])
    sock.sendall(memoryview(frame)[sent:])


def receive_frame(
    sock: socket.socket, *, deadline: float | None = None, descriptors: list[int] | None = None
) -> tuple[dict[str, object], bytes] | None:
    """Read one frame; None when the peer closed the stream before the first octet of one.

    Into `descriptors`, where it is given, goes the open file that came with the frame; it is the caller's to close,
    whatever happens. Otherwise the kernel closes what is sent along.

    `deadline` is a time.monotonic() value for the whole frame: a peer that sends an octet now and then does
    not get more. Without it the socket's own timeout applies to each read. Raises FrameError for a frame that
    is too large, cut short or no JSON object; TimeoutError; OSError when the connection breaks.
    """
    first = b"" if descriptors is None else _read_first(sock, deadline, descriptors)
    if first is None:
        return None
    lengths = _read(sock, _LENGTHS.size, deadline, may_end=True, first=first)
    if lengths is None:
        return None
    header_length, body_length = _LENGTHS.unpack(lengths)
    if header_length + body_length > MAX_FRAME:
        raise FrameError(f"a frame of {header_length + body_length} octets exceeds {MAX_FRAME}")
    content = _read(sock, header_length + body_length, deadline, may_end=False)
    assert content is not None
    return _parse_header(content[:header_length]), bytes(content[header_length:])


def _read_first(sock: socket.socket, deadline: float | None, descriptors: list[int]) -> bytes | None:
    """The frame's first octets, and the open file that the kernel hands over together with the very first."""
    _allow_until(sock, deadline)
    octets, received, flags, _ = socket.recv_fds(sock, _LENGTHS.size, 1, socket.MSG_CMSG_CLOEXEC)
    descriptors.extend(received)
    if flags & socket.MSG_CTRUNC:
        raise FrameError("more than one open file came with it")
    return octets or None


def _allow_until(sock: socket.socket, deadline: float | None) -> None:
    if deadline is not None:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("the frame did not arrive in time")
        sock.settimeout(remaining)


def _read(
    sock: socket.socket, length: int, deadline: float | None, *, may_end: bool, first: bytes = b""
) -> bytearray | None:
    """Exactly `length` octets, `first` being those that are there already; None at an end of stream before any, where
    `may_end` allows that.
    """
    buffer = bytearray(length)
    buffer[: len(first)] = first
    view = memoryview(buffer)
    have = len(first)
    while have < length:
        _allow_until(sock, deadline)
        count = sock.recv_into(view[have:])
        if count == 0:
            if may_end and have == 0:
                return None
            raise FrameError("the frame was cut short")
        have += count
    return buffer


def _refuse_constant(name: str) -> object:
    raise ValueError(name)


def _parse_header(encoded: bytearray) -> dict[str, object]:
    try:
        header = json.loads(encoded.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        # The cause is left out: its text would carry the document.
        raise FrameError("the header is not JSON") from None
    if not isinstance(header, dict):
        raise FrameError("the header is not a JSON object")
    return header
