# SPDX-License-Identifier: GPL-3.0-or-later
"""From an authority's configuration to the terms on which the gate judges its challenge mails."""

from acme_milter.config.schema import Authority
from acme_milter.enrollment.gate import Terms


def terms_of(authority: Authority) -> Terms:
    return Terms(
        coverage=authority.dkim_headers,
        require_auto_submitted=authority.require_auto_submitted,
        reply_to_domains=frozenset(authority.reply_to_domains),
        minimum_rsa_bits=authority.minimum_rsa_bits,
        smime_trust=authority.smime_trust if authority.accept_smime_signed else None,
    )
