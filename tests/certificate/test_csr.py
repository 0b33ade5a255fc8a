# SPDX-License-Identifier: GPL-3.0-or-later
"""The request that finalizes an order, read by the openssl program."""

import re
import subprocess
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from acme_milter.certificate.csr import MailboxPrivateKey, build_csr, csr_public_key_spki
from acme_milter.certificate.subject_name import (
    InvalidAddress,
    names_address,
    split_address,
    subject_alternative_name,
)
from acme_milter.certificate.usage import KeyUsageKind

P256 = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
ALICE = "alice@example.org"


def _openssl(csr: bytes, *options: str) -> str:
    command = ["openssl", "req", "-inform", "DER", "-noout", "-text", "-verify", "-nameopt", "utf8", *options]
    done = subprocess.run(command, input=csr, capture_output=True, check=True)
    assert b"self-signature verify OK" in done.stderr
    return done.stdout.decode()


@pytest.mark.parametrize(
    ("make", "key_line", "signature"),
    [
        (lambda: RSA, "Public-Key: (2048 bit)", "sha256WithRSAEncryption"),
        (lambda: P256, "NIST CURVE: P-256", "ecdsa-with-SHA256"),
        (lambda: ec.generate_private_key(ec.SECP384R1()), "NIST CURVE: P-384", "ecdsa-with-SHA384"),
    ],
    ids=["rsa", "p256", "p384"],
)
def test_openssl_reads_a_request_with_an_empty_subject_and_the_address_alone(
    make: Callable[[], MailboxPrivateKey], key_line: str, signature: str
) -> None:
    text = _openssl(build_csr(make(), [ALICE]))
    assert re.search(r"Subject: *\n", text)
    assert "Requested Extensions:" in text
    assert re.search(r"X509v3 Subject Alternative Name: (critical)?\s*\n\s*email:alice@example\.org\n", text)
    assert text.count("X509v3") == 1  # no keyUsage: a certificate to sign and to encrypt (RFC 8823 §3.3)
    assert key_line in text
    assert f"Signature Algorithm: {signature}" in text


@pytest.mark.parametrize(
    ("key", "usage", "bit"),
    [
        (RSA, KeyUsageKind.SIGN, "Digital Signature"),
        (P256, KeyUsageKind.SIGN, "Digital Signature"),
        (RSA, KeyUsageKind.ENCRYPT, "Key Encipherment"),
        (P256, KeyUsageKind.ENCRYPT, "Key Agreement"),
    ],
)
def test_a_key_for_one_purpose_asks_for_that_bit_and_no_other(
    key: MailboxPrivateKey, usage: KeyUsageKind, bit: str
) -> None:
    assert re.search(rf"X509v3 Key Usage: critical\s*\n\s*{bit}\n", _openssl(build_csr(key, [ALICE], usage)))


def test_several_addresses_stay_in_their_order() -> None:
    text = _openssl(build_csr(P256, [ALICE, "A.Smith@EXAMPLE.org"]))
    assert "email:alice@example.org, email:A.Smith@EXAMPLE.org\n" in text


@pytest.mark.parametrize("local_part", ["jörg", "用户", "x" + "ö" * 70])
def test_a_local_part_beyond_ascii_is_an_smtp_utf8_mailbox(local_part: str) -> None:
    csr = build_csr(P256, [f"{local_part}@XN--MNCHEN-3YA.example"])
    der = subprocess.run(
        ["openssl", "asn1parse", "-inform", "DER", "-dump"], input=csr, capture_output=True, check=True
    ).stdout
    assert b"email" not in der
    names = x509.load_der_x509_csr(csr).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (name,) = names
    assert isinstance(name, x509.OtherName)
    assert name.type_id.dotted_string == "1.3.6.1.5.5.7.8.9"
    san = re.search(r"Alternative Name:.*\n\s*(.*)\n", _openssl(csr))
    assert san is not None
    assert san.group(1).startswith("othername: SmtpUTF8Mailbox")
    parsed = subprocess.run(
        ["openssl", "asn1parse", "-inform", "DER"], input=name.value, capture_output=True, check=True
    ).stdout.decode()
    assert re.search(r"prim: UTF8STRING +:" + re.escape(f"{local_part}@xn--mnchen-3ya.example") + r"\n\Z", parsed)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "alice",
        "@example.org",
        "alice@",
        "alice@@example.org",
        "a@b@example.org",
        "Alice <alice@example.org>",
        "<alice@example.org>",
        "alice@example.org,bob@example.org",
        "alice@example.org\n",
        "alice\x00@example.org",
        "al ice@example.org",
        ".alice@example.org",
        "alice.@example.org",
        "a..b@example.org",
        '"alice"@example.org',
        "alice(x)@example.org",
        "alice@example.org.",
        "alice@-example.org",
        "alice@münchen.example",
        "alice@[127.0.0.1]",
        "alice@exa_mple.org",
        "a" * 250 + "@example.org",
        "\ud800@example.org",
    ],
)
def test_what_is_no_plain_address_gets_no_request(address: str) -> None:
    with pytest.raises(InvalidAddress):
        build_csr(P256, [address])


def test_a_request_without_an_address_is_not_made() -> None:
    with pytest.raises(InvalidAddress):
        build_csr(P256, [])


_local_parts = st.from_regex(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}(\.[a-z'+]{1,5}){0,2}", fullmatch=True)


@given(local_part=_local_parts | st.from_regex(r"[a-zà-ÿ一-九]{1,15}", fullmatch=True))
def test_every_address_comes_back_from_its_request_as_it_went_in(local_part: str) -> None:
    address = f"{local_part}@example.org"
    assert split_address(address) == (local_part, "example.org")
    request = x509.load_der_x509_csr(build_csr(P256, [address]))
    (name,) = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names_address(name, address)


def test_addresses_compare_by_octet_in_the_local_part_and_without_case_in_the_domain() -> None:
    assert names_address(x509.RFC822Name("Alice@example.org"), "Alice@EXAMPLE.org")
    assert not names_address(x509.RFC822Name("alice@example.org"), "Alice@example.org")
    assert not names_address(x509.RFC822Name("alice+x@example.org"), ALICE)
    assert not names_address(x509.DNSName("example.org"), ALICE)
    assert not names_address(subject_alternative_name("jörg@example.org"), "jorg@example.org")


def test_the_public_key_of_a_request_is_read_only_when_its_signature_fits() -> None:
    csr = build_csr(P256, [ALICE])
    assert csr_public_key_spki(csr)
    with pytest.raises(ValueError, match="signature"):
        csr_public_key_spki(csr.replace(b"alice", b"malic"))
    with pytest.raises(ValueError, match="pars"):
        csr_public_key_spki(b"no request")
