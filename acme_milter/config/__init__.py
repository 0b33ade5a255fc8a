# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration: what an administrator may write, read with file and line for every fault."""
