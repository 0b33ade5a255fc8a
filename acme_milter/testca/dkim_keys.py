# SPDX-License-Identifier: GPL-3.0-or-later
"""The CA's DKIM keys, the TXT records that publish them, and which signatures knob DKIM makes with them."""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from acme_milter.testca.dkim_signing import CHALLENGE_NAMES, SignatureForm, SigningKey, sign_draft
from acme_milter.testca.draft import Draft
from acme_milter.testca.pki import write_private_key

OTHER_DOMAIN = "attacker.example"


@dataclass(frozen=True, slots=True)
class DkimKeys:
    """Both keys and the CA's mail domain; `algorithm` is rsa, ed25519 or both."""

    domain: str
    algorithm: str
    rsa_key: rsa.RSAPrivateKey = field(repr=False)
    ed25519_key: ed25519.Ed25519PrivateKey = field(repr=False)

    @property
    def parent(self) -> str:
        """The domain above the CA's."""
        return self.domain.partition(".")[2]

    def records(self) -> dict[str, list[str]]:
        """Return every TXT record to publish, by full name: the good selectors and the faulty ones."""
        rsa_public = base64.b64encode(
            self.rsa_key.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        ).decode("ascii")
        ed25519_public = base64.b64encode(self.ed25519_key.public_key().public_bytes_raw()).decode("ascii")
        stranger = base64.b64encode(
            rsa.generate_private_key(65537, 2048)
            .public_key()
            .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        ).decode("ascii")
        good = f"v=DKIM1; k=rsa; p={rsa_public}"
        own = {
            "rsa1": [good],
            "ed1": [f"v=DKIM1; k=ed25519; p={ed25519_public}"],
            "testing": [f"v=DKIM1; k=rsa; t=y; p={rsa_public}"],
            "revoked": ["v=DKIM1; k=rsa; p="],
            "wrong": [f"v=DKIM1; k=rsa; p={stranger}"],
            "web": [f"v=DKIM1; k=rsa; s=web; p={rsa_public}"],
            "sha1only": [f"v=DKIM1; k=rsa; h=sha1; p={rsa_public}"],
            "twice": [good, f"v=DKIM1; k=rsa; p={stranger}"],
        }
        zone = {f"{selector}._domainkey.{self.domain}": texts for selector, texts in own.items()}
        for domain in (self.parent, OTHER_DOMAIN):
            zone[f"rsa1._domainkey.{domain}"] = [good]
        return zone

    def using(self, keys: str) -> "DkimKeys":
        """Return the same keys, used as knob DKIM_KEYS says."""
        return self if keys == "configured" else replace(self, algorithm=keys)

    def sign(self, draft: Draft, fault: str, *, names: str, now: datetime) -> Draft:
        """Return the mail with the signatures that `fault`, a value of knob DKIM, asks for."""
        kind, _, parameter = fault.partition(":")
        if kind == "unsigned":
            return draft
        listed = list(CHALLENGE_NAMES)
        if names == "present":
            there = {name.lower() for name, _ in draft.headers}
            listed = [name for name in listed if name.lower() in there]
        if kind == "missing-name":
            listed = [name for name in listed if name.lower() != parameter.lower()]
        forms = [self._faulty(form, kind, now) for form in self._good_forms(listed, now)]
        signed = draft
        for form in forms:
            value = sign_draft(draft, form)
            signed = signed.on_top("DKIM-Signature", _broken(value) if kind == "bad-signature" else value)
        if kind == "two-signatures-first-bad":
            signed = signed.on_top("DKIM-Signature", _broken(sign_draft(draft, forms[0])))
        if kind == "body-changed":
            signed = replace(signed, body=signed.body + b"This line came after the signature.\r\n")
        if kind == "length-tag":
            signed = replace(signed, body=signed.body + b"This line is beyond l=.\r\n")
        return signed

    def _good_forms(self, names: list[str], now: datetime) -> list[SignatureForm]:
        tags = (("t", str(int(now.timestamp()))),)
        forms = []
        if self.algorithm in ("rsa", "both"):
            forms.append(SignatureForm(self.rsa_key, self.domain, "rsa1", names, tags))
        if self.algorithm in ("ed25519", "both"):
            forms.append(SignatureForm(self.ed25519_key, self.domain, "ed1", names, tags))
        return forms

    def _faulty(self, form: SignatureForm, kind: str, now: datetime) -> SignatureForm:
        # The faulty selectors publish the RSA key, whatever the CA usually signs with.
        selectors = {
            "testing-key": "testing",
            "revoked-key": "revoked",
            "no-key": "absent",
            "wrong-key": "wrong",
            "web-key": "web",
            "sha1-only-key": "sha1only",
            "two-records": "twice",
        }
        if kind in selectors:
            return replace(form, key=self.rsa_key, selector=selectors[kind])
        if kind in ("parent-domain", "other-domain"):
            domain = self.parent if kind == "parent-domain" else OTHER_DOMAIN
            return replace(form, key=self.rsa_key, selector="rsa1", domain=domain)
        if kind == "rsa-sha1":
            return replace(form, key=self.rsa_key, selector="rsa1", sha1=True)
        if kind == "length-tag":
            return replace(form, with_length=True)
        if kind == "simple":
            return replace(form, canonicalization="simple")
        if kind == "expired":
            signed, ended = (int((now - timedelta(days=days)).timestamp()) for days in (4, 3))
            return replace(form, tags=(("t", str(signed)), ("x", str(ended))))
        if kind == "future":
            return replace(form, tags=(("t", str(int((now + timedelta(days=2)).timestamp()))),))
        return form


def _broken(value: str) -> str:
    """Return a DKIM-Signature whose signature bytes no longer verify."""
    head, _, signature = value.rpartition("\tb=")
    return f"{head}\tb={'B' if signature[0] != 'B' else 'C'}{signature[1:]}"


def open_dkim_keys(directory: Path, domain: str, algorithm: str) -> DkimKeys:
    """Read or make the DKIM keys in the state directory: RSA-2048 and Ed25519 (RFC 8301, RFC 8463)."""
    rsa_key = _open_key(directory / "dkim-rsa.key", lambda: rsa.generate_private_key(65537, 2048))
    ed25519_key = _open_key(directory / "dkim-ed25519.key", ed25519.Ed25519PrivateKey.generate)
    assert isinstance(rsa_key, rsa.RSAPrivateKey)
    assert isinstance(ed25519_key, ed25519.Ed25519PrivateKey)
    return DkimKeys(domain, algorithm, rsa_key, ed25519_key)


def _open_key(path: Path, make: Callable[[], SigningKey]) -> SigningKey:
    if path.exists():
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        assert isinstance(key, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey)
        return key
    made = make()
    write_private_key(path, made)
    return made
