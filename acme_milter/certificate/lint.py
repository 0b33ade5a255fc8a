# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an issued certificate keeps the CA/B Forum's S/MIME Baseline Requirements, as pkilint (an extra) reads them.

Only what claims to be such a certificate, by one of the policies reserved for that (S/MIME BR §7.1.6.1), is held to it:
a company's own CA may do as it likes.
"""

import functools
from collections.abc import Collection
from importlib.util import find_spec
from typing import Any

from acme_milter.certificate.refusal import CertificateFault, CertificateRefused

_INTERNAL_NAME = "cabf.internal_domain_name"
_LABORATORY_NAMES = ("example", "invalid", "localhost", "test")
"""RFC 6761 reserves them: a CA that issues for one of them is a laboratory's, and the name alone is no finding."""


MISSING = "require needs pkilint; run: pip install 'acme-milter[lint]'"


def lint_is_installed() -> bool:
    """Whether the extra `lint` is there."""
    return find_spec("pkilint") is not None


def check_lint(leaf_der: bytes, address: str, *, ignored: Collection[str] = (), required: bool = False) -> None:
    """Raise CertificateRefused, naming every finding of an error, for a certificate that breaks the requirements.

    `ignored` are codes of findings, such as ``cabf.smime.prohibited_keyusage``. `required`: a certificate that does
    not claim to keep them is refused as well. The extra has to be installed.
    """
    # Half a second of imports, for an extra.
    from pkilint.cabf import smime
    from pkilint.loader import RFC5280CertificateDocumentLoader

    document = RFC5280CertificateDocumentLoader().load_der_document(leaf_der)
    kind = smime.determine_validation_level_and_generation(document)
    if kind is None:
        if required:
            raise CertificateRefused(CertificateFault.LINT, "it claims no S/MIME policy of the CA/B Forum")
        return
    found = _findings(_validators(*kind), document)
    if address.rpartition(".")[2].lower() in _LABORATORY_NAMES:
        found.pop(_INTERNAL_NAME, None)
    counted = {code: words for code, words in found.items() if code not in ignored}
    if counted:
        said = "; ".join(f"{code}{f' ({words})' if words else ''}" for code, words in sorted(counted.items()))
        raise CertificateRefused(CertificateFault.LINT, f"pkilint finds {said}")


@functools.cache
def _validators(level: Any, generation: Any) -> Any:
    """They take longer to make than to use."""
    from pkilint.cabf import smime
    from pkilint.pkix.certificate import create_pkix_certificate_validator_container

    return create_pkix_certificate_validator_container(
        smime.create_decoding_validators(), smime.create_subscriber_validators(level, generation)
    )


def _findings(validators: Any, document: Any) -> dict[str, str]:
    """From the code of each error to what pkilint says about this certificate."""
    from pkilint.validation import ValidationFindingSeverity

    return {
        one.finding.code: _plain(one.message or "")
        for result in validators.validate(document.root)
        for one in result.finding_descriptions
        if one.finding.severity <= ValidationFindingSeverity.ERROR
    }


def _plain(words: str) -> str:
    """They may quote what the CA has written into the certificate."""
    return "".join(letter if letter.isprintable() else "?" for letter in words)[:200]
