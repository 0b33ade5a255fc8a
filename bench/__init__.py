# SPDX-License-Identifier: GPL-3.0-or-later
"""Measurements of what the product costs; `script/bench` runs them."""
