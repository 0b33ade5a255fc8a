# SPDX-License-Identifier: GPL-3.0-or-later
"""A small ACME client on requests and josepy, written for these tests alone: it can also do things wrongly."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import josepy.jwa
import josepy.jwk
import josepy.util
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

Json = dict[str, Any]


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class SmallAcme:
    """One account key and one HTTPS session."""

    def __init__(self, directory_url: str, ca_bundle: str) -> None:
        self.session = requests.Session()
        self.session.trust_env = False  # REQUESTS_CA_BUNDLE would overrule verify
        self.session.verify = ca_bundle
        self.directory: Json = self.session.get(directory_url).json()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.kid: str | None = None

    def close(self) -> None:
        self.session.close()

    def jwk(self, key: ec.EllipticCurvePrivateKey | None = None) -> Json:
        public = josepy.jwk.JWKEC(key=josepy.util.ComparableECKey((key or self.key).public_key()))
        return dict(public.to_json())

    def thumbprint(self) -> str:
        return b64(josepy.jwk.JWKEC(key=josepy.util.ComparableECKey(self.key.public_key())).thumbprint())

    def nonce(self) -> str:
        return self.session.head(self.directory["newNonce"]).headers["Replay-Nonce"]

    def sign(
        self, header: Mapping[str, object], payload: object, key: ec.EllipticCurvePrivateKey | None = None
    ) -> Json:
        protected = b64(json.dumps(header).encode())
        body = "" if payload is None else b64(json.dumps(payload).encode())
        signature = josepy.jwa.ES256.sign(key or self.key, f"{protected}.{body}".encode())
        return {"protected": protected, "payload": body, "signature": b64(signature)}

    def post(
        self,
        url: str,
        payload: object = None,
        *,
        header: Mapping[str, object] | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
        by_key: bool = False,
        content_type: str = "application/jose+json",
        change: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """POST a JWS; payload None is POST-as-GET. `header` and `change` overrule what is right."""
        identity: Json = {"jwk": self.jwk(key)} if self.kid is None or by_key else {"kid": self.kid}
        protected = {"alg": "ES256", "nonce": self.nonce(), "url": url, **identity, **(header or {})}
        envelope = self.sign({k: v for k, v in protected.items() if v is not None}, payload, key) | dict(change or {})
        return self.session.post(url, data=json.dumps(envelope), headers={"Content-Type": content_type})

    def register(self, **members: object) -> requests.Response:
        answer = self.post(self.directory["newAccount"], {"termsOfServiceAgreed": True, **members})
        if answer.ok:
            self.kid = answer.headers["Location"]
        return answer

    def order(self, *addresses: str, **members: object) -> requests.Response:
        identifiers = [{"type": "email", "value": address} for address in addresses]
        return self.post(self.directory["newOrder"], {"identifiers": identifiers, **members})


def make_csr(
    *addresses: str,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    usage: x509.KeyUsage | None = None,
    names: list[x509.GeneralName] | None = None,
    subject: str | None = None,
) -> str:
    """Return a CSR as newOrder's finalize wants it: DER in base64url."""
    names = [x509.RFC822Name(address) for address in addresses] if names is None else names
    attributes = [] if subject is None else [x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage is not None:
        builder = builder.add_extension(usage, critical=True)
    csr = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return b64(csr.public_bytes(serialization.Encoding.DER))
