# SPDX-License-Identifier: GPL-3.0-or-later
"""The files users import, read and used by the openssl program."""

import re
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from acme_milter.certificate.pkcs12 import P12Format, build_encrypted_pem, build_pkcs12, generate_passphrase
from acme_milter.certificate.refusal import CertificateFault, CertificateRefused
from tests.certificate.small_pki import NOW, Draft, Pki, PrivateKey, pem

RSA = rsa.generate_private_key(65537, 2048)


def _leaf(pki: Pki, key: PrivateKey) -> bytes:
    draft: Draft = pki.leaf_draft(key, "digital_signature", "key_encipherment", "key_agreement")
    return pem(draft.issued_by(pki.middle), pki.middle.certificate)


def _openssl(directory: Path, *arguments: str, content: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["openssl", *arguments], cwd=directory, input=content, capture_output=True)


def _read(directory: Path, file: bytes, passphrase: str, *options: str) -> tuple[bytes, str]:
    """(certificates and key as PEM, what openssl says of their protection)"""
    (directory / "a.p12").write_bytes(file)
    done = _openssl(directory, "pkcs12", "-in", "a.p12", "-info", "-noenc", "-passin", f"pass:{passphrase}", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr.decode()


@pytest.mark.parametrize("key", [RSA, ec.generate_private_key(ec.SECP384R1())], ids=["rsa", "p384"])
def test_the_modern_form_is_aes_256_and_sha_256_throughout(pki: Pki, tmp_path: Path, key: PrivateKey) -> None:
    file = build_pkcs12(key, _leaf(pki, key), "PASSPHRASE", P12Format.MODERN, "Alice")
    content, info = _read(tmp_path, file, "PASSPHRASE")
    assert content.count(b"-----BEGIN CERTIFICATE-----") == 2
    assert content.count(b"-----BEGIN PRIVATE KEY-----") == 1
    assert b"friendlyName: Alice" in content
    assert "MAC: sha256" in info
    assert "salt length: 8" in info  # macOS refuses 16
    protections = re.findall(r"(?:Encrypted data|Keybag): (.*)", info)
    assert len(protections) == 2
    for protection in protections:
        assert protection.startswith("PBES2, PBKDF2, AES-256-CBC, Iteration ")
        assert protection.endswith("PRF hmacWithSHA256")


def test_the_legacy_form_is_3des_and_sha_1_throughout(pki: Pki, tmp_path: Path) -> None:
    file = build_pkcs12(RSA, _leaf(pki, RSA), "PASSPHRASE", P12Format.LEGACY, "Alice")
    content, info = _read(tmp_path, file, "PASSPHRASE", "-legacy")
    assert content.count(b"-----BEGIN CERTIFICATE-----") == 2
    assert "MAC: sha1" in info
    protections = re.findall(r"(?:Encrypted data|Keybag): (.*)", info)
    assert len(protections) == 2
    assert all(protection.startswith("pbeWithSHA1And3-KeyTripleDES-CBC") for protection in protections)


def test_the_chain_can_be_left_out(pki: Pki, tmp_path: Path) -> None:
    file = build_pkcs12(RSA, _leaf(pki, RSA), "PASSPHRASE", P12Format.MODERN, "Alice", include_chain=False)
    assert _read(tmp_path, file, "PASSPHRASE")[0].count(b"-----BEGIN CERTIFICATE-----") == 1


def test_a_name_beyond_ascii_is_kept(pki: Pki, tmp_path: Path) -> None:
    file = build_pkcs12(RSA, _leaf(pki, RSA), "PASSPHRASE", P12Format.MODERN, "Jörg Müller")
    assert "Jörg Müller" in _read(tmp_path, file, "PASSPHRASE")[0].decode("latin-1")


@pytest.mark.parametrize("p12_format", list(P12Format))
def test_another_passphrase_does_not_open_it(pki: Pki, tmp_path: Path, p12_format: P12Format) -> None:
    (tmp_path / "a.p12").write_bytes(build_pkcs12(RSA, _leaf(pki, RSA), "PASSPHRASE", p12_format, "Alice"))
    for wrong in ("passphrase", ""):
        done = _openssl(tmp_path, "pkcs12", "-in", "a.p12", "-noenc", "-passin", f"pass:{wrong}", "-legacy")
        assert done.returncode != 0
        assert b"PRIVATE KEY" not in done.stdout


def test_a_certificate_of_another_key_makes_no_file(pki: Pki) -> None:
    with pytest.raises(CertificateRefused) as caught:
        build_pkcs12(RSA, pem(*pki.good), "PASSPHRASE", P12Format.MODERN, "Alice")
    assert caught.value.reason is CertificateFault.WRONG_KEY


def test_openssl_signs_and_decrypts_mail_with_the_exported_key(pki: Pki, tmp_path: Path) -> None:
    passphrase = generate_passphrase()
    (tmp_path / "key.pem").write_bytes(build_encrypted_pem(RSA, passphrase))
    (tmp_path / "chain.pem").write_bytes(_leaf(pki, RSA))
    (tmp_path / "root.pem").write_bytes(pem(pki.root.certificate))
    key = ["-inkey", "key.pem", "-passin", f"pass:{passphrase}"]
    mail = b"Content-Type: text/plain\r\n\r\nHello\r\n"
    signed = _openssl(tmp_path, "smime", "-sign", "-signer", "chain.pem", "-certfile", "chain.pem", *key, content=mail)
    assert signed.returncode == 0, signed.stderr
    at = ["-attime", str(int(NOW.timestamp())), "-CAfile", "root.pem"]
    verified = _openssl(tmp_path, "smime", "-verify", *at, content=signed.stdout)
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout == mail
    encrypted = _openssl(tmp_path, "smime", "-encrypt", "-aes256", "chain.pem", content=mail)
    decrypted = _openssl(tmp_path, "smime", "-decrypt", *key, "-recip", "chain.pem", content=encrypted.stdout)
    assert decrypted.stdout == mail, decrypted.stderr


def test_an_exported_pem_key_is_encrypted_with_aes_256(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(build_encrypted_pem(RSA, "PASSPHRASE"))
    parsed = _openssl(tmp_path, "asn1parse", "-in", "key.pem").stdout
    assert b":aes-256-cbc" in parsed
    assert b":hmacWithSHA256" in parsed


def test_a_passphrase_is_130_random_bits_that_nobody_misreads() -> None:
    passphrases = [generate_passphrase() for _ in range(400)]
    assert len(set(passphrases)) == len(passphrases)
    assert {len(passphrase) for passphrase in passphrases} == {26}
    assert set("".join(passphrases)) == set("0123456789ABCDEFGHJKMNPQRSTVWXYZ")
    for position in range(26):
        assert len({passphrase[position] for passphrase in passphrases}) == 32
