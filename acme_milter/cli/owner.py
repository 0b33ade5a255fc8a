# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose a file or socket is, for somebody who was not allowed to use it."""

import pwd
from pathlib import Path


def as_owner(path: Path) -> str:
    """Who may use `path`: its owner, or that of the directory above where the path itself may not be seen."""
    for place in (path, *path.parents):
        try:
            owner = pwd.getpwuid(place.stat().st_uid).pw_name
        except (OSError, KeyError):
            continue
        return "run this as root" if owner == "root" else f"run this as root, or with: sudo -u {owner}"
    return "run this as root"
