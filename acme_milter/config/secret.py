# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a secret is kept: a file, an environment variable or a systemd credential; never in the configuration.

Reading happens when the role that needs the secret starts, so `check` and the other roles need no access to it.
"""

import os
import re
import stat
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, model_validator

from acme_milter.config.section import Section
from acme_milter.config.values import FilePath

MAX_SECRET_BYTES = 64 * 1024

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_CREDENTIAL = re.compile(r"[A-Za-z0-9_.@:-]{1,255}\Z")


class SecretUnavailable(Exception):
    """The secret cannot be read; the text says where it was looked for, never what it is."""

    safe_text = True


def _variable(name: str) -> str:
    if not _VARIABLE.match(name):
        raise ValueError("must be the name of an environment variable")
    return name


def _credential(name: str) -> str:
    if not _CREDENTIAL.match(name) or name in {".", ".."}:
        raise ValueError("must be the name of a systemd credential (LoadCredential=)")
    return name


class SecretSource(Section):
    """A place for a secret. Its faults never quote what was written: it may be the secret itself."""

    @staticmethod
    def choices() -> str:
        """How to write one, for a fault's text."""
        return "{file: PATH}, {env: NAME} or {credential: NAME}"


class Secret(SecretSource):
    """Exactly one of `file`, `env` (an environment variable) and `credential` (systemd's LoadCredential=)."""

    file: FilePath | None = None
    env: Annotated[str, AfterValidator(_variable)] | None = None
    credential: Annotated[str, AfterValidator(_credential)] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if [self.file, self.env, self.credential].count(None) != 2:
            raise ValueError(f"must be exactly one of {self.choices()}")
        return self

    def read(self) -> str:
        """The secret as text, without the newline an editor puts at its end.

        Raises SecretUnavailable: absent, empty, not text, or a file that group or others can read.
        """
        if self.env is not None:
            value = os.environ.get(self.env)
            if value is None:
                raise SecretUnavailable(f"the environment variable {self.env} is not set")
        else:
            value = _read_file(self.path(), private=self.file is not None)
        value = value.rstrip("\r\n")
        if not value:
            raise SecretUnavailable(f"{self.where()} is empty")
        return value

    def path(self) -> Path:
        """The file that holds the secret; raises SecretUnavailable for a credential outside a systemd service."""
        if self.file is not None:
            return self.file
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if self.credential is None or not directory:
            raise SecretUnavailable(f"{self.where()} is not there: CREDENTIALS_DIRECTORY is not set by systemd")
        return Path(directory) / self.credential

    def where(self) -> str:
        """The place in words, for a message."""
        if self.file is not None:
            return f"the file {self.file}"
        if self.env is not None:
            return f"the environment variable {self.env}"
        return f"the credential {self.credential}"


class WrappingKeySource(SecretSource):
    """Where the wrapping key is: exactly one of `file` and `credential`; an environment is inherited too easily."""

    file: FilePath | None = None
    credential: Annotated[str, AfterValidator(_credential)] | None = None

    @staticmethod
    def choices() -> str:
        return "{file: PATH} or {credential: NAME}"

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.file is None) == (self.credential is None):
            raise ValueError(f"must be exactly one of {self.choices()}")
        return self


def loose_mode(mode: int) -> str | None:
    """What is wrong with the permission bits of a secret's file, None when only its owner can use it."""
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        return f"can be used by group or others (mode {stat.S_IMODE(mode):04o})"
    return None


def _read_file(path: Path, *, private: bool) -> str:
    """`private` is false for a systemd credential, whose permissions are systemd's business."""
    try:
        with path.open("rb") as file:
            fault = loose_mode(os.fstat(file.fileno()).st_mode) if private else None
            if fault:
                raise SecretUnavailable(f"the file {path} {fault}; run: chmod 0600 {path}")
            raw = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise SecretUnavailable(f"the file {path} cannot be read: {error.strerror}") from None
    if len(raw) > MAX_SECRET_BYTES:
        raise SecretUnavailable(f"the file {path} is larger than a secret can be")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise SecretUnavailable(f"the file {path} is not text") from None
