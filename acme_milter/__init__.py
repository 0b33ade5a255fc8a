"""acme-milter: S/MIME certificates for every mailbox, through RFC 8823 and Postfix."""

__version__ = "0.1.0"
