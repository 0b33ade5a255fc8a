# SPDX-License-Identifier: GPL-3.0-or-later
"""Text as the man(7) macros of roff take it."""

import inspect

from acme_milter import __version__


def escaped(text: str) -> str:
    """``text`` on one line, with nothing in it that roff would take for a command."""
    line = " ".join(text.split())
    line = line.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + line if line.startswith((".", "'")) else line


def heading(name: str, section: int, summary: str) -> str:
    """The lines a page begins with; ``summary`` gives its first sentence."""
    first = summary.strip().split("\n\n")[0].replace("\n", " ").rstrip(".")
    return "\n".join(
        [
            f'.TH {name.upper()} {section} "" "acme-milter {__version__}"',
            ".SH NAME",
            f"{escaped(name)} \\- {escaped(first[:1].lower() + first[1:])}",
        ]
    )


def bold(text: str) -> str:
    return f"\\fB{escaped(text)}\\fR"


def italic(text: str) -> str:
    return f"\\fI{escaped(text)}\\fR"


def paragraphs(text: str) -> str:
    """A docstring as paragraphs; what click is told not to wrap (``\\b``) stays as it is."""
    parts = []
    for block in inspect.cleandoc(text.replace("\f", "")).split("\n\n"):
        if block.startswith("\b"):
            kept = [f"{escaped(line)}" for line in block.splitlines()[1:]]
            parts += [".PP", ".nf", *kept, ".fi"]
        elif block.strip():
            parts += [".PP", escaped(block)]
    return "\n".join(parts[1:] if parts[:1] == [".PP"] and len(parts) == 2 else parts)
