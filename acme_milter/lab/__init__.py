# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole mail system on loopback, from real programs, for the demo, the tests and the benchmarks.

Everything lives in one temporary directory and on free ports; nothing of the machine's own mail system is read or
written.
"""
