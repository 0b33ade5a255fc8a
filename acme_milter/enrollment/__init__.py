# SPDX-License-Identifier: GPL-3.0-or-later
"""Our own words: what an enrollment is, how it moves, and when a mail is our challenge. No I/O."""
