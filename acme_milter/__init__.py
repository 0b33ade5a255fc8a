# SPDX-License-Identifier: GPL-3.0-or-later
"""acme-milter: S/MIME certificates for every mailbox, through RFC 8823 and Postfix."""

__version__ = "0.1.0"
