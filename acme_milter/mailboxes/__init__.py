# SPDX-License-Identifier: GPL-3.0-or-later
"""Where mailboxes are listed: sources, what they say, and what follows from it."""
