# SPDX-License-Identifier: GPL-3.0-or-later
"""What a view says when it was asked for something that is not there."""


class Unanswerable(Exception):
    """The text says what is not there, and which command shows what is."""

    safe_text = True
