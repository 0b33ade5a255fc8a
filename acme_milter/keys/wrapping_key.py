# SPDX-License-Identifier: GPL-3.0-or-later
"""The one secret an installation has to keep: 32 random octets under which all others are sealed.

It is a line of base64, as `openssl rand -base64 32` writes it, in a file that only keyd's user can read, or a systemd
credential (LoadCredentialEncrypted), which systemd decrypts into memory for keyd alone.

Nothing is encrypted with the wrapping key itself. Two keys are derived from it by HKDF-SHA256 (RFC 5869, no salt, 32
octets): info "acme-milter v1 keys" seals private keys and never leaves keyd; info "acme-milter v1 store" is given to
the worker, which seals tokens and raw mail with it and can open no private key.
"""

import base64
import binascii
import contextlib
import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from acme_milter.keys.sealing import KEY_SIZE, sealing_key_id

_MAX_FILE = 1024
_CREDENTIAL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,255}\Z")
_LEAST_DISTINCT_OCTETS = 12  # of 32 random octets, fewer are distinct once in about 10**24 keys


class WrappingKeyFault(Exception):
    """The wrapping key is not there, not protected or no key. The text names the place and never the content."""

    safe_text = True
    temporary = False


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file; it has to belong to root or to the reading user and be closed to everybody else."""

    path: Path


@dataclass(frozen=True, slots=True)
class CredentialSource:
    """A systemd credential of this unit, found in $CREDENTIALS_DIRECTORY (systemd.exec(5))."""

    name: str


@dataclass(frozen=True, slots=True)
class WrappingKey:
    """`id` names the key in sealed objects, logs and status; it tells nothing about the secret."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_SIZE:
            raise ValueError(f"a wrapping key has {KEY_SIZE} octets")

    @property
    def id(self) -> str:
        return sealing_key_id(self.keys_key())

    def keys_key(self) -> bytes:
        """The key that seals private keys. For keyd alone."""
        return self._derive(b"acme-milter v1 keys")

    def data_key(self) -> bytes:
        """The key that seals what the worker stores."""
        return self._derive(b"acme-milter v1 store")

    def _derive(self, info: bytes) -> bytes:
        return HKDF(algorithm=SHA256(), length=KEY_SIZE, salt=None, info=info).derive(self.secret)


def load_wrapping_key(source: FileSource | CredentialSource) -> WrappingKey:
    """Read the wrapping key. Raises WrappingKeyFault."""
    match source:
        case FileSource(path=path):
            return _parse(_read(path, must_be_private=True), path)
        case CredentialSource(name=name):
            path = _credential_path(name)
            # systemd grants the unit's user by an ACL, which shows as group bits; the directory is this unit's alone.
            return _parse(_read(path, must_be_private=False), path)


def create_wrapping_key_file(path: Path) -> WrappingKey:
    """Make a new wrapping key in a new file of mode 0600, durably. Raises FileExistsError: it never replaces one."""
    key = secrets.token_bytes(KEY_SIZE)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64encode(key) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        # A link appears whole or not at all, and fails where a file is: a crash cannot leave half a key in place.
        os.link(draft, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return WrappingKey(key)


def _credential_path(name: str) -> Path:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise WrappingKeyFault(f"credential {name}: systemd gave this process no credentials")
    if not _CREDENTIAL_NAME.match(name) or name in {".", ".."}:
        raise WrappingKeyFault("a credential's name is letters, digits, dot, dash and underscore")
    return Path(directory) / name


def _read(path: Path, *, must_be_private: bool) -> bytes:
    try:
        with path.open("rb") as file:
            # Of the file that was opened, not of the path: nobody can swap it in between.
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise WrappingKeyFault(f"{path}: not a regular file")
            if must_be_private and found.st_mode & 0o077:
                raise WrappingKeyFault(f"{path}: open to group or others (chmod 0600 it)")
            if must_be_private and found.st_uid not in {0, os.geteuid()}:
                raise WrappingKeyFault(f"{path}: belongs to user {found.st_uid}, neither root nor the reader")
            return file.read(_MAX_FILE + 1)
    except OSError as error:
        raise WrappingKeyFault(f"{path}: {error.strerror or 'cannot be read'}") from None


def _parse(content: bytes, path: Path) -> WrappingKey:
    try:
        key = binascii.a2b_base64(content.strip(), strict_mode=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_SIZE:
        raise WrappingKeyFault(f"{path}: not one line of base64 with {KEY_SIZE} octets (openssl rand -base64 32)")
    if len(set(key)) < _LEAST_DISTINCT_OCTETS:
        raise WrappingKeyFault(f"{path}: these octets are not random")
    return WrappingKey(key)
