# SPDX-License-Identifier: GPL-3.0-or-later
"""What a CA sends is taken only when it is what was ordered; every fault has its reason."""

import subprocess
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from acme_milter.certificate.issued import CLOCK_SKEW, check_issued
from acme_milter.certificate.refusal import CertificateFault, CertificateRefused
from acme_milter.certificate.subject_name import subject_alternative_name
from acme_milter.certificate.usage import KeyUsageKind
from tests.certificate.questions import Change, check, fault_of, named, subject
from tests.certificate.small_pki import (
    DAY,
    NOW,
    Pki,
    key_usage,
    pem,
    pem_block,
    spki,
)

ADDRESS = Pki.ADDRESS
SECOND = timedelta(seconds=1)
RSA = rsa.generate_private_key(65537, 2048)


def test_the_certificate_that_was_ordered_is_taken(pki: Pki) -> None:
    issued = check(pki, pki.chain())
    assert issued.serial == "abcdef0123"
    assert (issued.not_before, issued.not_after) == (NOW - DAY, NOW + 365 * DAY)
    assert issued.issuer == "CN=Test Issuer"
    assert issued.subject_address == ADDRESS
    assert issued.chain_pem == pem_block(b"CERTIFICATE", issued.leaf_der) + pem(pki.middle.certificate)
    assert x509.load_der_x509_certificate(issued.leaf_der).serial_number == 0xABCDEF0123


def test_openssl_agrees_that_the_chain_that_is_taken_is_good(pki: Pki, tmp_path: Path) -> None:
    issued = check(pki, pki.chain(), roots=[pem(pki.root.certificate)])
    (tmp_path / "root.pem").write_bytes(pem(pki.root.certificate))
    (tmp_path / "chain.pem").write_bytes(issued.chain_pem)
    command = ["openssl", "verify", "-x509_strict", "-purpose", "smimesign", "-attime", str(int(NOW.timestamp()))]
    files = ["-CAfile", "root.pem", "-untrusted", "chain.pem", "chain.pem"]
    done = subprocess.run([*command, *files], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "chain.pem: OK\n"


@pytest.mark.parametrize(
    ("fault", "change"),
    [
        (
            CertificateFault.WRONG_KEY,
            lambda d: d.changed(public_key=ec.generate_private_key(ec.SECP256R1()).public_key()),
        ),
        (CertificateFault.WRONG_NAME, named(x509.RFC822Name("bob@example.org"))),
        (CertificateFault.WRONG_NAME, named(x509.RFC822Name("Alice@example.org"))),
        (CertificateFault.WRONG_NAME, named(x509.RFC822Name("alice@sub.example.org"))),
        (CertificateFault.WRONG_NAME, named(x509.RFC822Name("example.org"))),
        (CertificateFault.WRONG_NAME, named(x509.DNSName(ADDRESS))),
        (CertificateFault.WRONG_NAME, named(x509.UniformResourceIdentifier(f"mailto:{ADDRESS}"))),
        (CertificateFault.WRONG_NAME, lambda d: d.without(x509.SubjectAlternativeName)),
        (
            CertificateFault.WRONG_NAME,
            lambda d: subject(NameOID.EMAIL_ADDRESS, ADDRESS)(d.without(x509.SubjectAlternativeName)),
        ),
        (CertificateFault.EXTRA_NAME, named(x509.RFC822Name(ADDRESS), x509.RFC822Name("bob@example.org"))),
        (CertificateFault.EXTRA_NAME, named(x509.RFC822Name("bob@example.org"), x509.RFC822Name(ADDRESS))),
        (CertificateFault.EXTRA_NAME, named(x509.RFC822Name(ADDRESS), x509.DNSName("example.org"))),
        (CertificateFault.EXTRA_NAME, named(x509.RFC822Name(ADDRESS), x509.RFC822Name(ADDRESS))),
        (CertificateFault.EXTRA_NAME, subject(NameOID.EMAIL_ADDRESS, "bob@example.org")),
        (CertificateFault.EXTRA_NAME, subject(NameOID.COMMON_NAME, "bob@example.org")),
        (CertificateFault.EXPIRED, lambda d: d.changed(not_after=NOW)),
        (CertificateFault.EXPIRED, lambda d: d.changed(not_after=NOW - SECOND)),
        (CertificateFault.NOT_YET_VALID, lambda d: d.changed(not_before=NOW + CLOCK_SKEW + SECOND)),
        (CertificateFault.DATES_INSANE, lambda d: d.changed(not_after=NOW + 20 * 365 * DAY)),
        (CertificateFault.IS_A_CA, lambda d: d.with_extension(x509.BasicConstraints(ca=True, path_length=0))),
        (CertificateFault.NO_EMAIL_PROTECTION, lambda d: d.without(x509.ExtendedKeyUsage)),
        (
            CertificateFault.NO_EMAIL_PROTECTION,
            lambda d: d.with_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])),
        ),
        (
            CertificateFault.NO_EMAIL_PROTECTION,
            lambda d: d.with_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])),
        ),
        (CertificateFault.KEY_USAGE, lambda d: d.with_extension(key_usage("key_agreement"))),
        (CertificateFault.KEY_USAGE, lambda d: d.with_extension(key_usage("digital_signature"))),
        (CertificateFault.KEY_USAGE, lambda d: d.with_extension(key_usage("digital_signature", "key_encipherment"))),
        (CertificateFault.KEY_USAGE, lambda d: d.with_extension(key_usage("crl_sign"))),
        (
            CertificateFault.UNKNOWN_CRITICAL_EXTENSION,
            lambda d: d.with_extension(
                x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), critical=True
            ),
        ),
    ],
)
def test_a_faulty_leaf_is_refused_by_name(pki: Pki, fault: CertificateFault, change: Change) -> None:
    assert fault_of(pki, pki.chain(change)) is fault


@pytest.mark.parametrize(
    "change",
    [
        named(x509.RFC822Name("alice@EXAMPLE.org")),
        subject(NameOID.EMAIL_ADDRESS, ADDRESS),
        subject(NameOID.COMMON_NAME, "Alice@Example.org"),
        subject(NameOID.COMMON_NAME, "Alice Adams"),
        lambda d: d.changed(not_before=NOW + CLOCK_SKEW),
        lambda d: d.changed(not_before=NOW),
        lambda d: d.changed(not_after=NOW + SECOND),
        lambda d: d.with_extension(x509.BasicConstraints(ca=False, path_length=None)),
        lambda d: d.without(x509.KeyUsage),
        lambda d: d.with_extension(key_usage("digital_signature", "content_commitment", "key_agreement")),
        lambda d: d.with_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.EMAIL_PROTECTION])
        ),
        lambda d: d.with_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")),
    ],
)
def test_what_cas_may_do_differently_is_taken(pki: Pki, change: Change) -> None:
    assert check(pki, pki.chain(change)).subject_address == ADDRESS


@pytest.mark.parametrize(
    ("usage", "bits", "good"),
    [
        (KeyUsageKind.SIGN, ["digital_signature"], True),
        (KeyUsageKind.SIGN, ["content_commitment"], True),
        (KeyUsageKind.SIGN, ["key_encipherment"], False),
        (KeyUsageKind.ENCRYPT, ["key_encipherment"], True),
        (KeyUsageKind.ENCRYPT, ["digital_signature"], False),
        (KeyUsageKind.ENCRYPT, ["key_agreement"], False),
        (KeyUsageKind.DUAL, ["digital_signature", "key_encipherment"], True),
        (KeyUsageKind.DUAL, ["digital_signature"], False),
    ],
)
def test_an_rsa_certificates_key_usage_fits_what_the_key_is_for(
    pki: Pki, usage: KeyUsageKind, bits: list[str], good: bool
) -> None:
    chain = pem(pki.leaf_draft(RSA, *bits).issued_by(pki.middle), pki.middle.certificate)
    check_rsa = partial(check_issued, chain, address=ADDRESS, public_key_spki=spki(RSA), now=NOW, usage=usage)
    if good:
        check_rsa()
    else:
        with pytest.raises(CertificateRefused) as caught:
            check_rsa()
        assert caught.value.reason is CertificateFault.KEY_USAGE


def test_a_mailbox_beyond_ascii_is_found_as_an_smtp_utf8_mailbox(pki: Pki) -> None:
    address = "jörg@xn--mnchen-3ya.example"
    chain = pki.chain(named(subject_alternative_name(address)))
    issued = check_issued(chain, address=address, public_key_spki=pki.spki, now=NOW)
    assert issued.subject_address == address
    assert fault_of(pki, chain) is CertificateFault.WRONG_NAME


@pytest.mark.parametrize(
    ("fault", "spoil"),
    [
        (CertificateFault.NOT_A_PEM_CHAIN, lambda good: b""),
        (CertificateFault.NOT_A_PEM_CHAIN, lambda good: b"\r\n \r\n"),
        (CertificateFault.NOT_A_PEM_CHAIN, lambda good: b"<html>404</html>"),
        (CertificateFault.NOT_A_PEM_CHAIN, lambda good: b"Certificate:\n" + good),
        (CertificateFault.NOT_A_PEM_CHAIN, lambda good: good + b"trailing"),
        (CertificateFault.NOT_A_PEM_CHAIN, lambda good: good[:-10]),
        (CertificateFault.NOT_A_PEM_CHAIN, lambda good: good.replace(b"M", b"\x00", 1)),
        (CertificateFault.NOT_A_PEM_CHAIN, lambda good: good.replace(b"-----\nM", b"-----\nProc-Type: 4\n\nM", 1)),
        (CertificateFault.UNREADABLE, lambda good: good.replace(b"-----\nM", b"-----\nMA", 1)),
        (CertificateFault.UNREADABLE, lambda good: good.replace(b"-----\nM", b"-----\n=M", 1)),
        (CertificateFault.UNREADABLE, lambda good: pem_block(b"CERTIFICATE", b"\x30\x00") + good),
        (CertificateFault.FOREIGN_PEM_BLOCK, lambda good: good + pem_block(b"PRIVATE KEY", b"\x30\x00")),
        (CertificateFault.FOREIGN_PEM_BLOCK, lambda good: pem_block(b"RSA PRIVATE KEY", b"\x30\x00") + good),
        (CertificateFault.FOREIGN_PEM_BLOCK, lambda good: good + pem_block(b"X509 CRL", b"\x30\x00")),
        (CertificateFault.FOREIGN_PEM_BLOCK, lambda good: good + pem_block(b"", b"\x30\x00")),
        (CertificateFault.FOREIGN_PEM_BLOCK, lambda good: good + b"-----BEGIN TRUSTED CERTIFICATE-----\n"),
        (CertificateFault.TOO_LARGE, lambda good: good + b"\n" * 10_000_000),
        (CertificateFault.TOO_LARGE, lambda good: bytes(10_000_000)),
        (CertificateFault.TOO_LARGE, lambda good: good * 6),
    ],
)
def test_what_is_no_pem_chain_is_refused(pki: Pki, fault: CertificateFault, spoil: Callable[[bytes], bytes]) -> None:
    assert fault_of(pki, spoil(pki.chain())) is fault


@pytest.mark.parametrize(
    "spoil",
    [
        lambda good: good.replace(b"\n", b"\r\n"),
        lambda good: b"\n" + good + b"\n\n",
        lambda good: good.replace(b"-----\n-----", b"-----\n\n-----"),
        lambda good: good.rstrip(),
    ],
)
def test_line_ends_and_blank_lines_do_not_matter_and_are_made_uniform(
    pki: Pki, spoil: Callable[[bytes], bytes]
) -> None:
    chain = pki.chain()
    assert check(pki, spoil(chain)).chain_pem == chain


@pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
@given(data=st.data())
def test_a_changed_octet_anywhere_in_the_chain_is_refused(pki: Pki, data: st.DataObject) -> None:
    ders = [certificate.public_bytes(serialization.Encoding.DER) for certificate in pki.good]
    which = data.draw(st.integers(0, 1))
    position = data.draw(st.integers(0, 2**16)) % len(ders[which])
    broken = bytearray(ders[which])
    broken[position] ^= data.draw(st.integers(1, 255))
    ders[which] = bytes(broken)
    chain = b"".join(pem_block(b"CERTIFICATE", der) for der in ders)
    with pytest.raises(CertificateRefused):
        check(pki, chain, roots=[pem(pki.root.certificate)])


@given(noise=st.binary(max_size=300))
def test_noise_is_refused_and_nothing_else_happens(pki: Pki, noise: bytes) -> None:
    for chain in (noise, pem_block(b"CERTIFICATE", noise)):
        with pytest.raises(CertificateRefused):
            check(pki, chain)


def test_a_refusal_quotes_nothing_the_ca_sent(pki: Pki) -> None:
    for chain in (
        b"CANARY",
        pem_block(b"CANARY", b"CANARY"),
        pki.chain(named(x509.RFC822Name("canary@example.org"))),
        pki.chain(subject(NameOID.COMMON_NAME, "canary@example.org")),
    ):
        with pytest.raises(CertificateRefused) as caught:
            check(pki, chain)
        assert "canary" not in str(caught.value).lower()


ALIAS = "a.smith@example.org"


def test_with_aliases_the_certificate_is_for_exactly_these_in_any_order(pki: Pki) -> None:
    check_both = partial(check_issued, address=ADDRESS, aliases=[ALIAS], public_key_spki=pki.spki, now=NOW)
    mine, theirs = x509.RFC822Name(ADDRESS), x509.RFC822Name(ALIAS)
    assert check_both(pki.chain(named(mine, theirs))).subject_address == ADDRESS
    assert check_both(pki.chain(named(theirs, mine))).subject_address == ADDRESS
    for names, fault in (
        ([mine], CertificateFault.WRONG_NAME),
        ([theirs], CertificateFault.WRONG_NAME),
        ([mine, theirs, x509.RFC822Name("bob@example.org")], CertificateFault.EXTRA_NAME),
        ([mine, theirs, theirs], CertificateFault.EXTRA_NAME),
    ):
        with pytest.raises(CertificateRefused) as caught:
            check_both(pki.chain(named(*names)))
        assert caught.value.reason is fault
