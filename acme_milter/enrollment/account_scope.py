# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose account a mailbox orders with at an authority: everybody's, its domain's or its own."""


def account_scope(account: str, address: str) -> str:
    """``account`` as an authority's key of that name has it; a domain, a mailbox, or nothing for everybody."""
    if account == "shared":
        return ""
    return address.lower() if account == "per_mailbox" else address.rpartition("@")[2].lower()
