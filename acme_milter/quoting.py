# SPDX-License-Identifier: GPL-3.0-or-later
"""Another program's words, made fit to be shown."""

import re

MAX_QUOTED = 200  # characters of another program's words in a fault
_LOGIN = re.compile(r"://[^/\s]*@")


def quoted(text: str | bytes) -> str:
    """Another program's words, fit for a log line: one line, printable, at most MAX_QUOTED characters.

    What stands before the @ of a URL is left out: programs quote the URL that they could not open.
    """
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    plain = _LOGIN.sub("://…@", "".join(c if c.isprintable() else " " for c in words))
    line = " ".join(plain.split())
    return line if len(line) <= MAX_QUOTED else line[: MAX_QUOTED - 1] + "…"
