# SPDX-License-Identifier: GPL-3.0-or-later
"""What the program's exit status tells a script; the words follow sysexits(3) where it has one."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit statuses; released numbers never change their meaning."""

    OK = 0
    FAILED = 1
    USAGE = 2  # click's own
    PARTLY = 3  # of several mailboxes some failed
    TRY_LATER = 75  # EX_TEMPFAIL: a certificate authority or a role cannot be reached now
    PERMISSION = 77  # EX_NOPERM
    CONFIGURATION = 78  # EX_CONFIG


OK = ExitCode.OK
FAILED = ExitCode.FAILED
USAGE = ExitCode.USAGE
PARTLY = ExitCode.PARTLY
TRY_LATER = ExitCode.TRY_LATER
PERMISSION = ExitCode.PERMISSION
CONFIGURATION = ExitCode.CONFIGURATION
