# SPDX-License-Identifier: GPL-3.0-or-later
"""Finalize, download, revocation, renewal information."""

import smtplib
from datetime import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.testca.conftest import Enrollment, RunningCa
from tests.testca.organization import make_reply
from tests.testca.small_acme import b64, make_csr
from tests.testca.test_http_rules import problem

ADDRESS = "same@org.example"


def usage(*bits: str) -> x509.KeyUsage:
    names = "digital_signature content_commitment key_encipherment data_encipherment key_agreement"
    others = "key_cert_sign crl_sign encipher_only decipher_only"
    return x509.KeyUsage(**{name: name in bits for name in f"{names} {others}".split()})


def issue(enrollment: Enrollment, csr: str | None = None) -> x509.Certificate:
    enrollment.validate()
    answer = enrollment.finalize(csr)
    assert answer.status_code == 200, answer.text
    return x509.load_pem_x509_certificates(enrollment.client.post(answer.json()["certificate"]).content)[0]


def test_finalize_before_ready_is_refused(enrollment: Enrollment) -> None:
    enrollment.place()
    answer = enrollment.finalize()
    assert (answer.status_code, problem(answer)) == (403, "orderNotReady")


def test_a_bad_csr_leaves_the_order_ready(enrollment: Enrollment) -> None:
    enrollment.validate()
    here = enrollment.address
    other = x509.RFC822Name("other@org.example")
    bad = {
        "other address": make_csr("other@org.example"),
        "an address too many": make_csr(here, "other@org.example"),
        "no address": make_csr(names=[]),
        "address only in the subject": make_csr(names=[], subject=here),
        "another subject": make_csr(here, subject="Alice"),
        "a host name": make_csr(names=[x509.DNSName("org.example")]),
        "another spelling": make_csr(names=[x509.RFC822Name(here.upper())]),
        "mixed names": make_csr(names=[x509.RFC822Name(here), other]),
        "the account key": make_csr(here, key=enrollment.client.key),
        "a CA's usage": make_csr(here, usage=usage("key_cert_sign")),
        "an EC key that enciphers": make_csr(here, usage=usage("digital_signature", "key_encipherment")),
        "an unusable curve": make_csr(here, key=ec.generate_private_key(ec.SECP256K1())),
        "garbage": b64(b"no DER"),
    }
    assert {name: problem(enrollment.finalize(csr)) for name, csr in bad.items()} == dict.fromkeys(bad, "badCSR")
    assert problem(enrollment.finalize(make_csr(here) + "=")) == "malformed"
    assert enrollment.order()["status"] == "ready"
    assert enrollment.finalize().json()["status"] == "valid"


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (None, {"digital_signature", "key_agreement"}),
        (usage("digital_signature"), {"digital_signature"}),
        (usage("digital_signature", "content_commitment"), {"digital_signature", "content_commitment"}),
        (usage("key_agreement"), {"key_agreement"}),
    ],
)
def test_key_usage_follows_the_csr(enrollment: Enrollment, asked: x509.KeyUsage | None, given: set[str]) -> None:
    leaf = issue(enrollment, make_csr(enrollment.address, usage=asked))
    got = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    bits = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    assert {bit for bit in bits if getattr(got, bit)} == given


def test_rsa_keys_encipher(enrollment: Enrollment) -> None:
    key = rsa.generate_private_key(65537, 2048)
    leaf = issue(enrollment, make_csr(enrollment.address, key=key))
    assert leaf.extensions.get_extension_for_class(x509.KeyUsage).value.key_encipherment


def test_a_non_ascii_local_part_goes_into_smtp_utf8_mailbox(ca: RunningCa, enrollment: Enrollment) -> None:
    enrollment.address = "jörg@org.example"
    enrollment.place()
    enrollment.fetch_authorization()
    mail = enrollment.receive()
    reply = ca.organization.sign(make_reply(mail, enrollment.digest(mail), sender=enrollment.address))
    with smtplib.SMTP("127.0.0.1", ca.announced["mx_port"], timeout=10) as session:
        session.ehlo()
        session.mail(enrollment.address, ["SMTPUTF8"])
        session.rcpt(enrollment.sender)
        assert session.data(reply)[0] == 250
    assert enrollment.verdict()["faults"] == []
    utf8 = enrollment.address.encode()
    name = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.9"), b"\x0c" + bytes([len(utf8)]) + utf8)
    assert problem(enrollment.finalize(make_csr("joerg@org.example"))) == "badCSR"
    answer = enrollment.finalize(make_csr(names=[name]))
    leaf = x509.load_pem_x509_certificate(enrollment.client.post(answer.json()["certificate"]).content)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert (list(names.value), names.critical, len(list(leaf.subject))) == ([name], True, 0)


def test_a_domain_is_kept_in_a_labels(enrollment: Enrollment) -> None:
    enrollment.address = "jörg@Bücher.example"
    order = enrollment.place()
    assert order["identifiers"] == [{"type": "email", "value": "jörg@xn--bcher-kva.example"}]


def test_the_profile_and_the_dates_of_an_order_are_kept(enrollment: Enrollment) -> None:
    assert enrollment.place(profile="short")["profile"] == "short"
    order = enrollment.place(notBefore="2026-11-22T00:00:00Z", notAfter="2027-01-01T00:00:00Z")
    assert order["notAfter"].startswith("2027-01-01T00:00:00")


@pytest.mark.parametrize("fault", ["wrongkey", "wrongsan", "expired", "nochain", "extra"])
def test_certificates_can_be_wrong(ca: RunningCa, enrollment: Enrollment, fault: str) -> None:
    ca.chaos(CERT=fault)
    key = ec.generate_private_key(ec.SECP256R1())
    enrollment.validate()
    url = enrollment.finalize(make_csr(enrollment.address, key=key)).json()["certificate"]
    pem = enrollment.client.post(url).content
    leaf = x509.load_pem_x509_certificate(pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    seen = {
        "wrongkey": leaf.public_key().public_bytes(*form) != key.public_key().public_bytes(*form),
        "wrongsan": names.get_values_for_type(x509.RFC822Name) != [enrollment.address],
        "expired": leaf.not_valid_after_utc < enrollment_start(ca),
        "nochain": pem.count(b"BEGIN CERTIFICATE") == 1,
        "extra": b"PRIVATE KEY" in pem,
    }
    assert {name for name, wrong in seen.items() if wrong} == {fault}


def enrollment_start(ca: RunningCa) -> datetime:
    return datetime.fromisoformat(ca.history("account")[0]["time"])


def test_an_asynchronous_finalize_is_polled_to_its_end(ca: RunningCa, enrollment: Enrollment) -> None:
    enrollment.validate()
    ca.chaos(FINALIZE_ASYNC="on", FINALIZE_POLLS=3)
    answer = enrollment.finalize()
    assert (answer.json()["status"], answer.headers["Retry-After"]) == ("processing", "1")
    assert [enrollment.order()["status"] for _ in range(3)] == ["processing", "processing", "valid"]


def test_the_issuing_account_revokes_once(ca: RunningCa, enrollment: Enrollment) -> None:
    leaf = b64(issue(enrollment).public_bytes(serialization.Encoding.DER))
    url = enrollment.client.directory["revokeCert"]
    assert problem(enrollment.client.post(url, {"certificate": leaf, "reason": 2})) == "badRevocationReason"
    assert enrollment.client.post(url, {"certificate": leaf, "reason": 4}).status_code == 200
    assert problem(enrollment.client.post(url, {"certificate": leaf})) == "alreadyRevoked"
    assert ca.history("revoked")[-1]["reason"] == 4


def test_the_certificates_key_revokes_and_a_stranger_does_not(ca: RunningCa, enrollment: Enrollment) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = b64(issue(enrollment, make_csr(enrollment.address, key=key)).public_bytes(serialization.Encoding.DER))
    stranger = ca.client()
    stranger.register()
    url = stranger.directory["revokeCert"]
    assert problem(stranger.post(url, {"certificate": leaf})) == "unauthorized"
    assert stranger.post(url, {"certificate": leaf}, key=key, by_key=True).status_code == 200
    stranger.close()


def test_an_account_with_all_authorizations_revokes(ca: RunningCa, enrollment: Enrollment) -> None:
    leaf = b64(issue(enrollment).public_bytes(serialization.Encoding.DER))
    successor = ca.client()
    successor.register()
    Enrollment(ca, successor, enrollment.address).validate()
    assert successor.post(successor.directory["revokeCert"], {"certificate": leaf}).status_code == 200
    successor.close()


def renewal_identity(leaf: x509.Certificate) -> str:
    authority = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert authority is not None
    serial = leaf.serial_number.to_bytes(leaf.serial_number.bit_length() // 8 + 1, "big")
    return f"{b64(authority)}.{b64(serial)}"


def test_renewal_information_is_read_without_an_account(ca: RunningCa, enrollment: Enrollment) -> None:
    leaf = issue(enrollment)
    identity = renewal_identity(leaf)
    url = f"{enrollment.client.directory['renewalInfo']}/{identity}"
    answer = ca.session.get(url)
    assert answer.headers["Retry-After"]
    assert answer.json()["suggestedWindow"]["start"] < answer.json()["suggestedWindow"]["end"]
    assert enrollment.place(replaces=identity)["replaces"] == identity
    enrollment.fetch_authorization()
    enrollment.answer(enrollment.receive())
    assert enrollment.finalize().ok
    again = enrollment.client.order(enrollment.address, replaces=identity)
    assert (again.status_code, problem(again)) == (409, "alreadyReplaced")
    assert ca.session.get(url + "AA").status_code == 404
