# SPDX-License-Identifier: GPL-3.0-or-later
"""DKIM signatures (RFC 6376, RFC 8463) on `cryptography`, right ones and, for knob DKIM, wrong ones."""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

from acme_milter.testca.draft import Draft

SigningKey = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
_BLANKS = re.compile(rb"[ \t]+")

# RFC 8823 §3.1 item 6: these are named in h= even where the mail has no such header.
CHALLENGE_NAMES = (
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


@dataclass(frozen=True, slots=True)
class SignatureForm:
    """How one signature is made. `tags` are further tags as they stand (l=, t=, x=); `names` is h=."""

    key: SigningKey = field(repr=False)
    domain: str
    selector: str
    names: Sequence[str]
    tags: Sequence[tuple[str, str]] = ()
    canonicalization: str = "relaxed"
    sha1: bool = False
    with_length: bool = False


def sign_draft(draft: Draft, form: SignatureForm) -> str:
    """Return the value of a DKIM-Signature header for a mail."""
    relaxed = form.canonicalization == "relaxed"
    body = relaxed_body(draft.body) if relaxed else simple_body(draft.body)
    rsa_key = isinstance(form.key, rsa.RSAPrivateKey)
    digest = "sha1" if form.sha1 else "sha256"
    tags = [
        ("v", "1"),
        ("a", f"{'rsa' if rsa_key else 'ed25519'}-{digest}"),
        ("c", f"{form.canonicalization}/{form.canonicalization}"),
        ("d", form.domain),
        ("s", form.selector),
        *form.tags,
        *([("l", str(len(body)))] if form.with_length else []),
        ("h", " : ".join(form.names)),
        ("bh", base64.b64encode(hashlib.new(digest, body).digest()).decode("ascii")),
    ]
    # One tag a line, so that the long h= folds too; folds stand between tags and around the colons of h=.
    unsigned = ";\r\n\t".join(f"{tag}={_fold_names(value)}" for tag, value in tags) + ";\r\n\tb="
    return unsigned + _fold_base64(_signature(form, draft, unsigned))


def _signature(form: SignatureForm, draft: Draft, unsigned: str) -> bytes:
    relaxed = form.canonicalization == "relaxed"
    lines = [
        relaxed_header(name, value) if relaxed else f"{name}: {value}".encode()
        for name, value in [*_picked(draft, form.names), ("DKIM-Signature", unsigned)]
    ]
    data = b"\r\n".join(lines)
    if isinstance(form.key, rsa.RSAPrivateKey):
        digest = hashes.SHA1() if form.sha1 else hashes.SHA256()  # noqa: S303 - a wrong signature is what is wanted
        return form.key.sign(data, padding.PKCS1v15(), digest)
    return form.key.sign(hashlib.sha256(data).digest())  # RFC 8463 §3 signs the SHA-256 digest


def _picked(draft: Draft, names: Sequence[str]) -> list[tuple[str, str]]:
    """Take header fields from the bottom up for each name (RFC 6376 §5.4.2); an absent one counts as nothing."""
    left: dict[str, list[tuple[str, str]]] = {}
    for name, value in draft.headers:
        left.setdefault(name.lower(), []).append((name, value))
    return [fields.pop() for name in names if (fields := left.get(name.lower()))]


def relaxed_header(name: str, value: str) -> bytes:
    """RFC 6376 §3.4.2: lower-case name, unfolded, runs of blanks become one, none at either end."""
    text = _BLANKS.sub(b" ", value.replace("\r\n", "").encode("utf-8")).strip(b" ")
    return name.lower().encode("ascii") + b":" + text


def relaxed_body(body: bytes) -> bytes:
    """RFC 6376 §3.4.4."""
    lines = [_BLANKS.sub(b" ", line).rstrip(b" ") for line in body.split(b"\r\n")]
    while lines and not lines[-1]:
        lines.pop()
    return b"".join(line + b"\r\n" for line in lines)


def simple_body(body: bytes) -> bytes:
    """RFC 6376 §3.4.3: an empty body becomes one CRLF."""
    return body.rstrip(b"\r\n") + b"\r\n"


def _fold_names(value: str) -> str:
    if " : " not in value:
        return value
    lines, line = [], ""
    for name in value.split(" : "):
        if len(line) + len(name) > 66:
            lines.append(line)
            line = ""
        line += (":" if line or lines else "") + name
    return "\r\n\t ".join([*lines, line])


def _fold_base64(data: bytes) -> str:
    text = base64.b64encode(data).decode("ascii")
    return "\r\n\t ".join(text[start : start + 70] for start in range(0, len(text), 70))
