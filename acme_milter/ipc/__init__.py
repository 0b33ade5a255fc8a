# SPDX-License-Identifier: GPL-3.0-or-later
"""How our processes speak to each other: frames of a JSON header and a binary body over a unix socket."""

from acme_milter.ipc.client import FrameClient, PeerForbidden, PeerUnavailable
from acme_milter.ipc.frames import MAX_FRAME, FrameError, receive_frame, send_frame
from acme_milter.ipc.server import AddressInUse, FrameServer

__all__ = [
    "MAX_FRAME",
    "AddressInUse",
    "FrameClient",
    "FrameError",
    "FrameServer",
    "PeerForbidden",
    "PeerUnavailable",
    "receive_frame",
    "send_frame",
]
