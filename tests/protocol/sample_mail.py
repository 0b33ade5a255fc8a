# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds challenge mails, good to begin with, and DKIM-signs them with every tag under the test's control.

The signer shares no code with the product: its canonical forms are a second reading of RFC 6376 §3.4.
"""

import base64
import functools
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

CA_DOMAIN = "ca.example"
SENDER = f"acme-generator@{CA_DOMAIN}"
RECIPIENT = "alexey@example.com"
TOKEN_PART1 = "LgYemJLy3F1LDkiJrdIGbEzyFJyOyf6vBdyZ1TG3sME="
# dkimpy looks at the real clock, so the samples live in the present.
NOW = datetime.now(UTC).replace(microsecond=0)
ORDER_CREATED = NOW - timedelta(minutes=1)

STRICT_NAMES = (
    "From",
    "Sender",
    "Reply-To",
    "To",
    "CC",
    "Subject",
    "Date",
    "In-Reply-To",
    "References",
    "Message-ID",
    "Auto-Submitted",
    "Content-Type",
    "Content-Transfer-Encoding",
)


@dataclass(frozen=True)
class SampleKey:
    """A DKIM key pair under a selector."""

    selector: str
    private: RSAPrivateKey | Ed25519PrivateKey = field(repr=False)

    @property
    def algorithm(self) -> str:
        return "rsa-sha256" if isinstance(self.private, RSAPrivateKey) else "ed25519-sha256"

    def public_octets(self) -> bytes:
        if isinstance(self.private, RSAPrivateKey):
            return self.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return self.private.public_key().public_bytes_raw()

    def record(self, extra: str = "") -> bytes:
        """The TXT record; `extra` is put before p=, e.g. "t=y; "."""
        kind = "rsa" if isinstance(self.private, RSAPrivateKey) else "ed25519"
        return f"v=DKIM1; k={kind}; {extra}p=".encode() + base64.b64encode(self.public_octets())

    def sign(self, content: bytes, algorithm: str) -> bytes:
        if isinstance(self.private, RSAPrivateKey):
            return self.private.sign(content, PKCS1v15(), SHA1() if algorithm == "rsa-sha1" else SHA256())  # noqa: S303  # to be refused
        return self.private.sign(hashlib.sha256(content).digest())


@functools.cache
def rsa_key(selector: str = "rsa", bits: int = 2048) -> SampleKey:
    """An RSA key, made once per test process and selector."""
    return SampleKey(selector, generate_private_key(65537, bits))


@functools.cache
def ed25519_key(selector: str = "ed") -> SampleKey:
    """An Ed25519 key, made once per test process and selector."""
    return SampleKey(selector, Ed25519PrivateKey.generate())


def good_zone(domain: str = CA_DOMAIN) -> dict[str, list[bytes]]:
    """The key records of the sample CA: selectors rsa and ed."""
    return {f"{key.selector}._domainkey.{domain}": [key.record()] for key in (rsa_key(), ed25519_key())}


@dataclass(frozen=True)
class SignatureSpec:
    """How to sign. `tags` override or, when None, drop tags before signing, so the signature stays a true one."""

    key: SampleKey = field(default_factory=rsa_key)
    domain: str = CA_DOMAIN
    names: tuple[str, ...] = STRICT_NAMES
    canonicalization: str = "relaxed/simple"
    tags: Mapping[str, str | None] = field(default_factory=dict)
    body_octets: int | None = None
    text: str = "; "

    def field_for(self, message: bytes) -> bytes:
        """The DKIM-Signature field for `message`, CRLF at its end."""
        head, _, body = message.partition(b"\r\n\r\n")
        header_form, _, body_form = self.canonicalization.partition("/")
        tags = self._tag_list(canonical_body(body, body_form or "simple"))
        value = " " + self.text.join(f"{name}={text}" for name, text in tags.items())
        chosen = _chosen(_split_fields(head), [*self.names])
        algorithm = tags.get("a", self.key.algorithm)
        content = b"".join(canonical_field(item, header_form) for item in chosen)
        own = canonical_field((b"DKIM-Signature", value.encode()), header_form).removesuffix(b"\r\n")
        signature = base64.b64encode(self.key.sign(content + own, algorithm)).decode()
        return f"DKIM-Signature:{value}{self.tags.get('b') or signature}\r\n".encode()

    def _tag_list(self, body: bytes) -> dict[str, str]:
        hasher = hashlib.sha1 if self.tags.get("a") == "rsa-sha1" else hashlib.sha256
        hashed = body if self.body_octets is None else body[: self.body_octets]
        tags: dict[str, str | None] = {
            "v": "1",
            "a": self.key.algorithm,
            "c": self.canonicalization,
            "d": self.domain,
            "s": self.key.selector,
            "t": str(int(NOW.timestamp())),
            "h": ":".join(self.names),
            "bh": base64.b64encode(hasher(hashed).digest()).decode(),
        }
        if self.body_octets is not None:
            tags["l"] = str(self.body_octets)
        tags |= {name: text for name, text in self.tags.items() if name != "b"}
        return {name: text for name, text in tags.items() if text is not None} | {"b": ""}


@dataclass(frozen=True)
class SampleMail:
    """A mail as a list of fields and a body; every method gives a changed copy."""

    fields: tuple[tuple[str, str], ...]
    body: bytes = b"This is an automatically generated ACME challenge.\r\n"

    def set(self, name: str, value: str) -> Self:
        """Replace the field, or add it at the bottom."""
        if name not in dict(self.fields):
            return replace(self, fields=(*self.fields, (name, value)))
        return replace(self, fields=tuple((key, value if key == name else old) for key, old in self.fields))

    def drop(self, *names: str) -> Self:
        return replace(self, fields=tuple(item for item in self.fields if item[0] not in names))

    def top(self, name: str, value: str) -> Self:
        return replace(self, fields=((name, value), *self.fields))

    def with_body(self, body: bytes) -> Self:
        return replace(self, body=body)

    def raw(self) -> bytes:
        head = "".join(f"{name}:{value}\r\n" for name, value in self.fields)
        return head.encode("utf-8", "surrogateescape") + b"\r\n" + self.body

    def signed(self, *specs: SignatureSpec) -> bytes:
        """The mail with one signature for each spec (one good one by default), the first spec's on top."""
        raw = self.raw()
        signatures = [spec.field_for(raw) for spec in specs or (SignatureSpec(),)]
        return b"".join(signatures) + raw


def good_mail(token: str = TOKEN_PART1) -> SampleMail:
    """A challenge mail as RFC 8823 Figure 1 has it, of now."""
    return SampleMail(
        (
            ("Auto-Submitted", " auto-generated; type=acme"),
            ("Date", NOW.strftime(" %a, %d %b %Y %H:%M:%S +0000")),
            ("Message-ID", " <A2299BB.FF7788@ca.example>"),
            ("From", f" {SENDER}"),
            ("To", f" {RECIPIENT}"),
            ("Subject", f" ACME: {token}"),
            ("Content-Type", " text/plain"),
            ("MIME-Version", " 1.0"),
        )
    )


def signed_challenge_mail() -> bytes:
    """The good mail with one good RSA signature; its key is in good_zone()."""
    return good_mail().signed()


def seconds_from_now(offset: int) -> str:
    """A t= or x= value."""
    return str(int(NOW.timestamp()) + offset)


def names_without(*names: str) -> tuple[str, ...]:
    """The 13 names but these."""
    return tuple(name for name in STRICT_NAMES if name not in names)


def changed_after_signing(old: bytes, new: bytes) -> bytes:
    """The good signed mail, with the first `old` replaced."""
    raw = signed_challenge_mail()
    assert old in raw
    return raw.replace(old, new, 1)


def _split_fields(head: bytes) -> list[tuple[bytes, bytes]]:
    lines = re.split(rb"\r\n(?![ \t])", head)
    return [(name, value) for name, _, value in (line.partition(b":") for line in lines)]


def _chosen(fields: list[tuple[bytes, bytes]], names: list[str]) -> list[tuple[bytes, bytes]]:
    stacks: dict[bytes, list[tuple[bytes, bytes]]] = {}
    for item in fields:
        stacks.setdefault(item[0].lower(), []).append(item)
    return [stacks[name.lower().encode()].pop() for name in names if stacks.get(name.lower().encode())]


def canonical_field(item: tuple[bytes, bytes], form: str) -> bytes:
    name, value = item
    if form == "simple":
        return name + b":" + value + b"\r\n"
    return name.lower() + b":" + b" ".join(value.replace(b"\r\n", b"").split()) + b"\r\n"


def canonical_body(body: bytes, form: str) -> bytes:
    if form == "relaxed":
        body = b"\r\n".join(re.sub(rb"[ \t]+", b" ", line).rstrip(b" ") for line in body.split(b"\r\n"))
    stripped = re.sub(rb"(?:\r\n)+\Z", b"", body)
    if not stripped:
        return b"" if form == "relaxed" else b"\r\n"
    return stripped + b"\r\n"
