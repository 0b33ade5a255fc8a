# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker role: intake, DKIM proof, replies and ACME steps."""
