# SPDX-License-Identifier: GPL-3.0-or-later
"""A mail as a list of header fields and a body, before and after it is signed."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Draft:
    """Header values are unfolded or folded with CRLF, without the blank after the colon; the body ends in CRLF."""

    headers: tuple[tuple[str, str], ...]
    body: bytes

    def on_top(self, name: str, value: str) -> "Draft":
        """Return the mail with one more header field above all others."""
        return replace(self, headers=((name, value), *self.headers))

    def render(self) -> bytes:
        """Return the mail as it goes over the wire, before dot-stuffing."""
        head = "".join(f"{name}: {value}\r\n" for name, value in self.headers)
        return head.encode("utf-8") + b"\r\n" + self.body
