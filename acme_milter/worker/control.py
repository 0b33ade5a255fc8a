# SPDX-License-Identifier: GPL-3.0-or-later
"""The control socket: what the command line asks of a running worker. All its writes pass here."""

from collections.abc import Callable, Mapping

Answer = Callable[[dict[str, object]], dict[str, object]]
"""Takes a request's header and returns the answer's; ``{"error": TEXT}`` for what cannot be done. Whose request it is
the header has under ipc.server's PEER_UID; what a client says of itself is not to be recorded.
"""


class Control:
    """Answers frames; ``handle`` is what an ipc.FrameServer wants."""

    def __init__(self, calls: Mapping[str, Answer]) -> None:
        """``calls``: by the word that a request has in ``call``."""
        self._calls = {"ping": _ping, **calls}

    def handle(self, header: dict[str, object], _body: bytes) -> tuple[dict[str, object], bytes]:
        """Answer one frame; an unknown call gets ``{"error": …}``, as an older worker gives it to a newer command."""
        answer = self._calls.get(str(header.get("call")))
        return ({"error": "unknown call"} if answer is None else answer(header)), b""


def _ping(_header: dict[str, object]) -> dict[str, object]:
    return {"ok": True}
