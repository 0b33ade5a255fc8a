# SPDX-License-Identifier: GPL-3.0-or-later
"""Private keys: how they are made, sealed and used. Only the keyd process ever holds one unsealed."""
