# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of the chains that an authority offers for a certificate is taken (RFC 8555 §7.4.2)."""

from collections.abc import Callable, Iterator

from cryptography import x509
from cryptography.x509.oid import NameOID

from acme_milter.acme.client import AcmeClient
from acme_milter.acme.problem import BadAnswer, ServerRefused
from acme_milter.certificate.issued import IssuedCertificate
from acme_milter.certificate.refusal import CertificateFault, CertificateRefused

MOST = 4
"""Alternates that are looked at: an authority that names a thousand is not walked through."""

_OF_THE_CHAIN = frozenset({CertificateFault.CHAIN_MISSING, CertificateFault.CHAIN_BROKEN, CertificateFault.UNTRUSTED})
"""What another chain of the same certificate may mend."""

Check = Callable[[bytes], IssuedCertificate]


def choose_chain(client: AcmeClient, url: str, check: Check, preferred: str | None) -> tuple[IssuedCertificate, bool]:
    """The chain at ``url``, or one of its alternates: the first that ends at ``preferred``, else the first good one.

    Alternates are fetched only where the first chain is not it. True: it ends where it is wanted to, or nothing was
    wanted. Raises what the download raises (of alternates only what may pass), and the first chain's ChainRefused.
    """
    offered = client.download_chain(url)
    first, refused = None, None
    try:
        first = check(offered.pem)
    except CertificateRefused as error:
        if error.reason not in _OF_THE_CHAIN or not offered.alternates:
            raise ChainRefused(error, offered.pem) from None
        refused = error
    if first is not None and (preferred is None or ends_at(first.chain_pem, preferred)):
        return first, True
    for other in _others(client, offered.alternates[:MOST], check):
        if preferred is None or ends_at(other.chain_pem, preferred):
            return other, True
        first = first or other
    if first is None:
        assert refused is not None
        raise ChainRefused(refused, offered.pem)
    return first, preferred is None


class ChainRefused(Exception):
    """No chain is good. ``refused`` says what is wrong with the one that came first, ``chain_pem`` is that one."""

    def __init__(self, refused: CertificateRefused, chain_pem: bytes) -> None:
        super().__init__(refused)
        self.refused = refused
        self.chain_pem = chain_pem


def ends_at(chain_pem: bytes, name: str) -> bool:
    """Whether the root of a chain, in it or above it, has this name: its common name, or all of it (RFC 4514)."""
    top = x509.load_pem_x509_certificates(chain_pem)[-1].issuer
    names = [str(part.value) for part in top.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return name.casefold() in {one.casefold() for one in [*names, top.rfc4514_string()]}


def _others(client: AcmeClient, urls: tuple[str, ...], check: Check) -> Iterator[IssuedCertificate]:
    """Those that pass every check; one that does not is as good as not offered."""
    for url in urls:
        try:
            yield check(client.download_chain(url).pem)
        except (BadAnswer, CertificateRefused):
            continue
        except ServerRefused as refused:
            if refused.temporary:
                raise
