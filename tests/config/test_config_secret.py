# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets are read from where they are kept, refused when others can read them, and never shown."""

from pathlib import Path

import pytest

from acme_milter.config.secret import Secret, SecretUnavailable

CANARY = "canary-4d1e"


def secret_file(directory: Path, mode: int = 0o600, content: bytes = CANARY.encode() + b"\n") -> Path:
    path = directory / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_file_gives_its_text_without_the_final_newline(tmp_path: Path) -> None:
    secret = Secret(file=secret_file(tmp_path))
    assert secret.read() == CANARY
    assert "canary" not in repr(secret)


def test_an_environment_variable_gives_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_MILTER_TEST_SECRET", CANARY)
    secret = Secret(env="ACME_MILTER_TEST_SECRET")
    assert secret.read() == CANARY
    assert "canary" not in repr(secret)


def test_a_credential_is_found_where_systemd_puts_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret_file(tmp_path, 0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert Secret(credential="secret").read() == CANARY


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o602, 0o644])
def test_a_file_that_group_or_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = secret_file(tmp_path, mode)
    with pytest.raises(SecretUnavailable, match="chmod 0600") as caught:
        Secret(file=path).read()
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        (Secret(file=Path("/nonexistent/secret")), "No such file"),
        (Secret(file=Path("/")), "Is a directory"),
        (Secret(env="ACME_MILTER_SURELY_NOT_SET"), "is not set"),
        (Secret(credential="name"), "CREDENTIALS_DIRECTORY"),
    ],
)
def test_an_absent_secret_says_where_it_was_looked_for(
    monkeypatch: pytest.MonkeyPatch, secret: Secret, words: str
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(SecretUnavailable, match=words):
        secret.read()


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe", b"x" * 70_000])
def test_a_file_that_holds_no_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SecretUnavailable):
        Secret(file=secret_file(tmp_path, content=content)).read()
