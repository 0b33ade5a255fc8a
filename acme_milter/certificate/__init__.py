# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificate requests, what a CA sent back, and the files users import. Pure: X.509 by `cryptography`, no I/O."""
