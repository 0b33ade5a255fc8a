# SPDX-License-Identifier: GPL-3.0-or-later
"""A configuration profile for iPhone, iPad and Mac that brings one identity (payload com.apple.security.pkcs12)."""

import plistlib
import re
import uuid
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

_NAMESPACE = uuid.UUID("5c1c2e0a-0a7e-5d0b-9a52-8a3f6f0f8823")
_IDENTIFIER = re.compile(rb"<key>PayloadIdentifier</key>\s*<string>acme-milter\.([0-9a-f]+)</string>")


def build_profile(address: str, serial: str, pkcs12: bytes, issuers: Sequence[x509.Certificate]) -> bytes:
    """The profile as an XML property list. There is no password in it: the device asks for the passphrase when it
    installs it. Apple's reference says why: a profile is obfuscated, not encrypted.

    The identifiers hold the certificate's serial number: a profile of the same identifier replaces the one before and
    removes its identity, and old mail could no longer be read. `issuers` come as certificates of their own, since an
    identity's payload is one identity; a root is left out, to be trusted is not ours to ask for.
    """
    name = f"acme-milter.{serial}"
    payloads = [
        _payload("com.apple.security.pkcs12", name + ".identity", f"S/MIME {address}")
        | {"PayloadCertificateFileName": f"{address}.p12", "PayloadContent": pkcs12}
    ]
    for number, issuer in enumerate(issuers):
        if issuer.subject == issuer.issuer:
            continue
        payload = _payload("com.apple.security.pkcs1", f"{name}.issuer{number}", issuer.subject.rfc4514_string())
        file = {
            "PayloadCertificateFileName": f"issuer{number}.cer",
            "PayloadContent": issuer.public_bytes(Encoding.DER),
        }
        payloads.append(payload | file)
    profile = _payload("Configuration", name, f"S/MIME {address}") | {
        "PayloadDescription": f"Certificate and key for signed and encrypted mail of {address}",
        "PayloadContent": payloads,
    }
    return plistlib.dumps(profile)


def serial_in(profile: bytes) -> str | None:
    """The serial number of the certificate that a profile is for, in lower-case hex; None where it does not say so."""
    found = _IDENTIFIER.search(profile)
    return None if found is None else found[1].decode("ascii")


def _payload(kind: str, identifier: str, title: str) -> dict[str, object]:
    return {
        "PayloadType": kind,
        "PayloadVersion": 1,
        "PayloadIdentifier": identifier,
        # The same certificate gives the same identifiers, however often it is delivered.
        "PayloadUUID": str(uuid.uuid5(_NAMESPACE, identifier)).upper(),
        "PayloadDisplayName": title,
    }
