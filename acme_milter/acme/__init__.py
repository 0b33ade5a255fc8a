# SPDX-License-Identifier: GPL-3.0-or-later
"""An ACME client (RFC 8555, RFC 9773) that takes one HTTP step a call.

Knows nothing of mail, of the configuration or of where keys live: signatures come from a `Signer`.
"""
