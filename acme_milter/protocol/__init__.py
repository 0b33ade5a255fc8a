# SPDX-License-Identifier: GPL-3.0-or-later
"""RFC 8823, 3834, 5322 and 6376 as pure functions on bytes and values; no clock, no socket, no log."""
