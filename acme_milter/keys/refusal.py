# SPDX-License-Identifier: GPL-3.0-or-later
"""Why keyd does not do what it is asked."""


class KeydRefused(Exception):
    """keyd understood and said no; asking again is vain. `reason` is a fixed phrase, quoting nothing that was sent."""

    safe_text = True
    temporary = False

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
