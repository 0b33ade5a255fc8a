# SPDX-License-Identifier: GPL-3.0-or-later
"""The store of an organization, for the figures; the tests use the same one."""

from acme_milter.lab.organization import address_of, fill

__all__ = ["address_of", "fill"]
