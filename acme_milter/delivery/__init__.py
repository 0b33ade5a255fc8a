# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings certificate and key to the programs that use them."""
