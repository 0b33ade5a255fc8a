# SPDX-License-Identifier: GPL-3.0-or-later
"""DKIM policy where a whole mail would say too little: names in messages, lists, bounds, and hostile tag lists."""

import time
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_milter.protocol.dkim_policy import (
    RECOMMENDED_NAMES,
    REPLY_NAMES,
    REQUIRED_CHALLENGE_NAMES,
    HeaderCoverage,
    Signature,
    candidate_signatures,
    check_key,
    check_signature,
    key_name,
    missing_names,
    parse_key_record,
)
from acme_milter.protocol.dkim_tags import InvalidTagList, decode_base64, parse_tag_list
from acme_milter.protocol.faults import MailFault, MailRefused
from acme_milter.protocol.headers import Headers, split_message
from acme_milter.protocol.rsa_key_size import InvalidRsaKey, rsa_modulus_bits
from tests.protocol.sample_mail import CA_DOMAIN, NOW, SignatureSpec, good_mail, names_without, rsa_key


def judged(*specs: SignatureSpec) -> tuple[Signature, Headers]:
    headers, _ = split_message(good_mail().signed(*specs))
    return candidate_signatures(headers, CA_DOMAIN)[0], headers


def test_the_three_lists_are_the_rfcs() -> None:
    assert len(REQUIRED_CHALLENGE_NAMES) == 13
    assert len(REPLY_NAMES) == 12
    assert set(REQUIRED_CHALLENGE_NAMES) - set(REPLY_NAMES) == {"auto-submitted"}
    assert len(RECOMMENDED_NAMES) == 12


def test_signature_is_read_with_its_place_and_names() -> None:
    signature, _ = judged(
        SignatureSpec(domain="other.example"), SignatureSpec(tags={"d": "CA.Example", "x": "9999999999"})
    )
    assert (signature.index, signature.domain, signature.selector) == (1, CA_DOMAIN, "rsa")
    assert signature.header_names == REQUIRED_CHALLENGE_NAMES
    assert (signature.header_canonicalization, signature.body_canonicalization) == ("relaxed", "simple")
    assert (signature.timestamp, signature.expiration) == (int(NOW.timestamp()), 9_999_999_999)
    assert key_name(signature) == "rsa._domainkey.ca.example"


def test_refusal_names_the_missing_header_and_the_key_that_relaxes_it() -> None:
    signature, headers = judged(SignatureSpec(names=names_without("Sender", "CC")))
    assert missing_names(signature, headers, HeaderCoverage.STRICT) == ("sender", "cc")
    assert missing_names(signature, headers, HeaderCoverage.PRESENT) == ()
    with pytest.raises(MailRefused) as caught:
        check_signature(signature, headers, coverage=HeaderCoverage.STRICT, now=NOW, not_before=NOW)
    assert "sender, cc" in caught.value.detail
    assert "dkim_headers: present" in caught.value.detail


def test_refusal_offers_no_relaxation_where_none_would_help() -> None:
    signature, headers = judged(SignatureSpec(names=names_without("Subject")))
    assert missing_names(signature, headers, HeaderCoverage.PRESENT) == ("subject",)
    with pytest.raises(MailRefused) as caught:
        check_signature(signature, headers, coverage=HeaderCoverage.STRICT, now=NOW, not_before=NOW)
    assert "subject" in caught.value.detail
    assert "dkim_headers" not in caught.value.detail


def test_name_must_be_listed_as_often_as_it_occurs() -> None:
    """Our parser refuses doubles anyway; the policy does not rely on that."""
    signature, _ = judged(SignatureSpec())
    doubled, _ = split_message(b"Subject: x\r\n" + good_mail().signed())
    assert missing_names(signature, doubled, HeaderCoverage.PRESENT) == ("subject",)


@pytest.mark.parametrize(
    ("t", "x", "arrives", "good"),
    [
        (300, None, 0, True),
        (301, None, 0, False),
        (None, -300, 0, True),
        (None, -301, 0, False),
        (-600, None, 0, True),
        (-601, None, 0, False),
        (0, 1, 0, True),
        (0, 0, 0, False),
        (0, 100, 400, True),
        (0, 100, 401, False),
        (None, None, 0, True),
    ],
)
def test_bounds_of_time_are_exact(t: int | None, x: int | None, arrives: int, good: bool) -> None:
    base = int(NOW.timestamp())
    tags = {"t": None if t is None else str(base + t), "x": None if x is None else str(base + x)}
    signature, headers = judged(SignatureSpec(tags=tags))
    moment = NOW + timedelta(seconds=arrives)
    if good:
        check_signature(signature, headers, coverage=HeaderCoverage.STRICT, now=moment, not_before=NOW)
        return
    with pytest.raises(MailRefused) as caught:
        check_signature(signature, headers, coverage=HeaderCoverage.STRICT, now=moment, not_before=NOW)
    assert caught.value.fault is MailFault.DKIM_TIME


def test_without_an_order_time_age_is_not_judged() -> None:
    signature, headers = judged(SignatureSpec(tags={"t": "1000000000"}))
    check_signature(signature, headers, coverage=HeaderCoverage.STRICT, now=NOW, not_before=None)


def test_minimum_key_size_names_its_setting_and_never_goes_below_the_hard_floor() -> None:
    signature, _ = judged(SignatureSpec())
    record = parse_key_record([rsa_key("weak", 1024).record()])
    check_key(record, signature)
    check_key(record, signature, minimum_rsa_bits=0)
    with pytest.raises(MailRefused) as caught:
        check_key(record, signature, minimum_rsa_bits=2048)
    assert caught.value.fault is MailFault.DKIM_KEY_TOO_SHORT
    assert "minimum_rsa_bits" in caught.value.detail


@pytest.mark.parametrize("bits", [1024, 2048, 4096])
def test_modulus_size_is_read_from_both_encodings(bits: int) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    selector = {1024: "weak", 2048: "rsa", 4096: "strong"}[bits]
    public = rsa_key(selector, bits).private.public_key()
    for form in (PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1):
        assert rsa_modulus_bits(public.public_bytes(Encoding.DER, form)) == bits


@given(st.binary(max_size=80))
def test_any_octets_are_a_key_or_refused(der: bytes) -> None:
    with pytest.raises(InvalidRsaKey):
        rsa_modulus_bits(der)


@given(st.lists(st.binary(max_size=120), max_size=3))
def test_any_txt_answer_is_a_key_or_refused(txts: list[bytes]) -> None:
    fault = MailFault.DKIM_KEY_MISSING
    try:
        parse_key_record(txts)
    except MailRefused as refusal:
        fault = refusal.fault
    assert fault.startswith("dkim-key-")


@given(st.text(alphabet="vabhdsctxlqi=;:@. \t\r\n01rsaFrom/+-", max_size=200))
def test_any_signature_field_is_candidates_or_refused(value: str) -> None:
    try:
        headers = Headers.from_block(b"DKIM-Signature:" + value.encode())
        candidate_signatures(headers, CA_DOMAIN)
    except MailRefused:
        pass


def test_tag_list_keeps_order_and_trims_blanks() -> None:
    assert list(parse_tag_list(b" v = 1 ;\ta=x y ;z=;").items()) == [("v", b"1"), ("a", b"x y"), ("z", b"")]


@pytest.mark.parametrize(
    "text",
    [b"", b" ; ", b"a=1;;b=2", b"=1", b"a", b"1a=x", b"a-b=1", b"a=1; a=2", b"a=\x01", b"a=\x7f", b"a=b\n"],
    ids=ascii,
)
def test_text_that_is_no_tag_list_is_refused(text: bytes) -> None:
    if text == b"":
        assert parse_tag_list(text) == {}
        return
    with pytest.raises(InvalidTagList):
        parse_tag_list(text)


@pytest.mark.parametrize("text", [b"", b"=", b"A", b"AAA", b"AA=A", b"AAAA=", b"A-_A", b"AAAA\n", b"===="], ids=ascii)
def test_base64_is_strict(text: bytes) -> None:
    with pytest.raises(InvalidTagList):
        decode_base64(text)


@pytest.mark.parametrize(
    "bomb",
    [
        b" " * 60_000 + b"!",
        b"b=" + b" " * 60_000 + b"!",
        b"b=" + b"A" * 60_000 + b"!",
        b";" * 60_000,
        b"=" * 60_000,
        b"a=1;" * 15_000,
        b"h=" + b":" * 60_000,
        b"h=" + b" :" * 30_000,
        b"d=" + b"a." * 30_000,
        b"d=" + "ü".encode() * 30_000,
        b"s=" + b"a." * 30_000,
        b"v=1; a=rsa-sha256; d=ca.example; s=a; bh=" + b"A " * 20_000 + b"; h=from; b=" + b"A " * 9_000,
    ],
    ids=lambda bomb: ascii(bomb[:8]),
)
def test_hostile_signature_field_costs_no_time(bomb: bytes) -> None:
    headers = Headers.from_block(b"DKIM-Signature: " + bomb)
    started = time.process_time()
    with pytest.raises(MailRefused):
        candidate_signatures(headers, CA_DOMAIN)
    with pytest.raises(MailRefused):
        parse_key_record([bomb])
    assert time.process_time() - started < 0.05
