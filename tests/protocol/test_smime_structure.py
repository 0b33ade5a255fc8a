# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the signature is and what it is over: the whole mail is one signature, or it is none."""

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_milter.protocol.ber import InvalidBer, definite
from acme_milter.protocol.content_type import InvalidContentType, parse_content_type
from acme_milter.protocol.faults import MailFault, MailRefused
from acme_milter.protocol.headers import split_message
from acme_milter.protocol.smime_structure import SmimeForm, find_signature, looks_signed
from tests.protocol.sample_mail import good_mail

SIGNATURE = base64.b64encode(b"signature").decode()
PART = "Content-Type: application/pkcs7-signature\r\nContent-Transfer-Encoding: base64\r\n"
GOOD_BODY = f"--b\r\nX: y\r\n\r\ntext \r\n\r\n--b\r\n{PART}\r\n{SIGNATURE}\r\n--b--\r\n"
KIND = 'multipart/signed; protocol="application/pkcs7-signature"; micalg=sha-256; boundary=b'


def refused(body: str, kind: str = KIND, *, encoding: str | None = None) -> MailRefused:
    extra = f"Content-Transfer-Encoding: {encoding}\r\n" if encoding else ""
    headers, octets = split_message(f"Content-Type: {kind}\r\n{extra}\r\n{body}".encode())
    with pytest.raises(MailRefused) as caught:
        find_signature(headers, octets)
    return caught.value


def test_the_content_is_the_octets_between_the_delimiters() -> None:
    headers, body = split_message(f"Content-Type: {KIND}\r\n\r\nFor old programs.\r\n{GOOD_BODY}\r\n".encode())
    found = find_signature(headers, body)
    assert (found.form, found.content, found.cms) == (SmimeForm.DETACHED, b"X: y\r\n\r\ntext \r\n", b"signature")
    assert found.micalg == ("sha-256",)
    assert looks_signed(headers)


STRUCTURE_FAULTS = {
    "no part": "",
    "one part": f"--b\r\n{PART}\r\n{SIGNATURE}\r\n--b--\r\n",
    "three parts": GOOD_BODY.replace("--b--", "--b\r\n\r\nmore\r\n--b--"),
    "no end": GOOD_BODY.replace("--b--\r\n", ""),
    "text after the end": GOOD_BODY + "Click here.\r\n",
    "an inner boundary that begins like the outer one": GOOD_BODY.replace("text", "text\r\n--bb"),
    "a blank in the delimiter": GOOD_BODY.replace("--b--", "--b --"),
    "an empty part": GOOD_BODY.replace("X: y\r\n\r\ntext \r\n\r\n", ""),
    "the signature is text": GOOD_BODY.replace("pkcs7-signature", "pdf"),
    "the signature is not encoded": GOOD_BODY.replace("base64", "7bit"),
    "the signature is no base64": GOOD_BODY.replace(SIGNATURE, "!!!!"),
    "the signature is cut off": GOOD_BODY.replace(SIGNATURE, SIGNATURE[:-3]),
    "something behind the padding": GOOD_BODY.replace(SIGNATURE, "YQ==YQ=="),
}


@pytest.mark.parametrize("name", STRUCTURE_FAULTS)
def test_what_is_not_exactly_content_and_signature_is_refused(name: str) -> None:
    assert refused(STRUCTURE_FAULTS[name]).fault is MailFault.SMIME_STRUCTURE


@pytest.mark.parametrize(
    "kind",
    [
        KIND.replace("; micalg=sha-256", ""),
        KIND.replace("boundary=b", ""),
        KIND.replace("boundary=b", "boundary*=us-ascii''b"),
        KIND.replace("boundary=b", "boundary=b; boundary=c"),
        KIND.replace("boundary=b", 'boundary="b "'),
        KIND + "(comment)",
    ],
)
def test_a_content_type_with_two_readings_is_refused(kind: str) -> None:
    assert refused(GOOD_BODY, kind).fault is MailFault.SMIME_STRUCTURE


def test_a_multipart_that_is_encoded_is_refused() -> None:
    assert refused(GOOD_BODY, encoding="base64").fault is MailFault.SMIME_STRUCTURE


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "multipart/mixed; boundary=b",
        'multipart/signed; protocol="application/pgp-signature"; micalg=pgp-sha256; boundary=b',
        "application/pkcs7-mime; smime-type=enveloped-data",
        "application/pkcs7-mime",
        "application/pkcs7-signature",
    ],
)
def test_everything_else_is_no_smime_signature(kind: str) -> None:
    assert refused(GOOD_BODY, kind).fault is MailFault.SMIME_NONE


def test_an_enclosing_signature_has_its_content_inside() -> None:
    headers, body = split_message(
        f"Content-Type: application/pkcs7-mime;\r\n smime-type=Signed-Data\r\n"
        f"Content-Transfer-Encoding: BASE64\r\n\r\n{SIGNATURE}\r\n".encode()
    )
    found = find_signature(headers, body)
    assert (found.form, found.content, found.cms) == (SmimeForm.ENCLOSING, None, b"signature")
    assert refused(SIGNATURE, "application/pkcs7-mime; smime-type=signed-data").fault is MailFault.SMIME_STRUCTURE


@given(st.binary(max_size=200), st.sampled_from([KIND, "application/pkcs7-mime; smime-type=signed-data", "text/plain"]))
def test_any_octets_are_taken_apart_or_refused(body: bytes, kind: str) -> None:
    headers, _ = split_message(good_mail().set("Content-Type", f" {kind}").raw())
    with contextlib.suppress(MailRefused):
        find_signature(headers, body)


@given(st.binary(max_size=120))
def test_any_content_type_is_read_or_refused(value: bytes) -> None:
    try:
        found = parse_content_type(value)
    except InvalidContentType:
        return
    assert found.name == found.name.lower()


STREAM = bytes.fromhex("3080 0201 05 2480 0402 6162 0401 63 0000 0000".replace(" ", ""))


def test_a_stream_is_given_its_lengths() -> None:
    assert definite(STREAM).hex() == "3008" + "020105" + "0403616263"
    for whole in ("3003020105", "30810302 0105".replace(" ", "")):
        assert definite(bytes.fromhex(whole)).hex() == whole


@pytest.mark.parametrize("cut", range(1, len(STREAM)))
def test_a_truncated_stream_is_refused(cut: int) -> None:
    with pytest.raises(InvalidBer):
        definite(STREAM[:cut])


@pytest.mark.parametrize(
    "octets", [b"", STREAM + b"\0", b"\x30\x80" * 40 + b"\0\0" * 40, b"\x04\x80\0\0", b"\x1f\x81\1\0"]
)
def test_what_is_no_single_value_is_refused(octets: bytes) -> None:
    with pytest.raises(InvalidBer):
        definite(octets)


@given(st.binary(max_size=100))
def test_any_octets_are_one_value_or_refused(octets: bytes) -> None:
    try:
        again = definite(octets)
    except InvalidBer:
        return
    assert definite(again) == again
