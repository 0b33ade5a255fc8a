# SPDX-License-Identifier: GPL-3.0-or-later
"""A CMS SignedData (RFC 5652 §5) as values: one signer, its signed attributes, and the certificates it brought.

pyasn1 reads it, with the modules that its keepers publish for each RFC: they are maintained, have a stable interface
and know RFC 7508's attribute. `asn1crypto` has had no release since 2022, `cryptography` reads no SignedData, and what
the openssl command says of a signature tells neither its attributes nor its algorithms. Only the child imports this.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pyasn1.codec.ber import decoder as ber_decoder
from pyasn1.codec.der import encoder as der_encoder
from pyasn1.error import PyAsn1Error
from pyasn1_modules import rfc4055, rfc5280, rfc5652, rfc7508

from acme_milter.protocol.ber import InvalidBer, definite
from acme_milter.protocol.faults import MailFault, MailRefused
from acme_milter.protocol.header_protection import SecureField

MAX_CERTIFICATES = 16
MAX_SALT_OCTETS = 512
DATA = "1.2.840.113549.1.7.1"
_SIGNED_DATA = "1.2.840.113549.1.7.2"
_CONTENT_TYPE = "1.2.840.113549.1.9.3"
_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
_SIGNING_TIME = "1.2.840.113549.1.9.5"
_SECURE_HEADERS = "1.2.840.113549.1.9.16.2.55"
_RSASSA_PSS = "1.2.840.113549.1.1.10"
_DUPLICATED = 0

_HASHES = {
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
}
_SIGNATURES = {
    "1.2.840.113549.1.1.1": ("rsa", None),
    "1.2.840.113549.1.1.11": ("rsa", "sha256"),
    "1.2.840.113549.1.1.12": ("rsa", "sha384"),
    "1.2.840.113549.1.1.13": ("rsa", "sha512"),
    "1.2.840.10045.4.3.2": ("ecdsa", "sha256"),
    "1.2.840.10045.4.3.3": ("ecdsa", "sha384"),
    "1.2.840.10045.4.3.4": ("ecdsa", "sha512"),
}
"""Algorithm and the hash in its name. RFC 3370 §3.2 has rsaEncryption with the hash said elsewhere only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """The one signer. `attributes` is the DER that the signature is over; `hash_name` as hashlib has it.

    `scheme` is rsa (PKCS #1 v1.5), rsa-pss or ecdsa. The signer's certificate is named by `issuer` (DER) and `serial`,
    or by `key_identifier`.
    """

    issuer: bytes | None
    serial: int | None
    key_identifier: bytes | None
    hash_name: str
    scheme: str
    salt_octets: int
    attributes: bytes = field(repr=False)
    message_digest: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    signing_time: datetime | None
    secure_headers: tuple[SecureField, ...] | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class SignedData:
    """`content` is None when the signature is detached; `certificates` are in DER, as they came."""

    content: bytes | None = field(repr=False)
    certificates: tuple[bytes, ...] = field(repr=False)
    signer: Signer


def parse_signed_data(octets: bytes) -> SignedData:
    """Read a ContentInfo in BER or DER. Raises MailRefused: SMIME_MALFORMED, SMIME_SIGNERS, SMIME_ALGORITHM."""
    try:
        info = _decoded(definite(octets), rfc5652.ContentInfo())
        if str(info["contentType"]) != _SIGNED_DATA:
            raise _malformed("it is no SignedData")
        signed = _decoded(bytes(info["content"]), rfc5652.SignedData())
        return _read(signed)
    except InvalidBer as problem:
        raise _malformed(str(problem)) from None
    except (PyAsn1Error, ValueError, TypeError, LookupError, OverflowError, RecursionError):
        # pyasn1 has an error of its own for most, but not for all that octets from outside can do to it.
        raise _malformed("it is not the ASN.1 of RFC 5652") from None


def _read(signed: Any) -> SignedData:
    signers = signed["signerInfos"]
    if len(signers) != 1:
        # Two signatures could be two opinions of what was signed; one that counts is all that RFC 8823 needs.
        raise MailRefused(MailFault.SMIME_SIGNERS, f"there are {len(signers)} signers, and there must be one")
    enclosed = signed["encapContentInfo"]
    if str(enclosed["eContentType"]) != DATA:
        raise _malformed("what is signed is no MIME entity (id-data)")
    content = bytes(enclosed["eContent"]) if enclosed["eContent"].isValue else None
    found = signed["certificates"] if signed["certificates"].isValue else ()
    if len(found) > MAX_CERTIFICATES:
        raise MailRefused(MailFault.SMIME_SIGNERS, f"it brings more than {MAX_CERTIFICATES} certificates")
    certificates = tuple(
        der_encoder.encode(choice["certificate"]) for choice in found if choice.getName() == "certificate"
    )
    return SignedData(content, certificates, _signer(signers[0]))


def _signer(info: Any) -> Signer:
    hash_name, scheme, salt_octets = _algorithms(info)
    if not info["signedAttrs"].isValue:
        # Without them, the DER of somebody's attributes could be passed off as a content that he signed.
        raise _malformed("the signer has no signed attributes")
    attributes = dict(_attributes(info["signedAttrs"]))
    kind, digest = attributes.get(_CONTENT_TYPE), attributes.get(_MESSAGE_DIGEST)
    if kind is None or digest is None:
        raise _malformed("a content type or a message digest is missing among the signed attributes")
    if str(_decoded(kind, rfc5652.ContentType())) != DATA:
        raise _malformed("the signed content type is another than the content's")
    name = info["sid"]
    by_serial = name["issuerAndSerialNumber"] if name.getName() == "issuerAndSerialNumber" else None
    own = rfc5652.SignedAttributes()
    own.extend(info["signedAttrs"])
    return Signer(
        issuer=None if by_serial is None else der_encoder.encode(by_serial["issuer"]),
        serial=None if by_serial is None else int(by_serial["serialNumber"]),
        key_identifier=bytes(name["subjectKeyIdentifier"]) if by_serial is None else None,
        hash_name=hash_name,
        scheme=scheme,
        salt_octets=salt_octets,
        attributes=der_encoder.encode(own),  # RFC 5652 §5.4: with the tag of SET OF, in DER, whatever it came in
        message_digest=bytes(_decoded(digest, rfc5652.MessageDigest())),
        signature=bytes(info["signature"]),
        signing_time=_signing_time(attributes),
        secure_headers=_secure_headers(attributes),
    )


def _attributes(listed: Any) -> Iterator[tuple[str, bytes]]:
    """Each type once and with one value (RFC 5652 §11); anything else has two readings."""
    seen: set[str] = set()
    for attribute in listed:
        name = str(attribute["attrType"])
        if name in seen or len(attribute["attrValues"]) != 1:
            raise _malformed("a signed attribute occurs twice or has another number of values than one")
        seen.add(name)
        yield name, bytes(attribute["attrValues"][0])


def _algorithms(info: Any) -> tuple[str, str, int]:
    """Hash, scheme and salt length. SHA-1 and MD5 are not among them, nor is a signature with another hash."""
    hash_name = _HASHES.get(str(info["digestAlgorithm"]["algorithm"]))
    if hash_name is None:
        raise MailRefused(MailFault.SMIME_ALGORITHM, "the hash is none of SHA-256, SHA-384 and SHA-512")
    algorithm = info["signatureAlgorithm"]
    if str(algorithm["algorithm"]) == _RSASSA_PSS:
        return hash_name, "rsa-pss", _pss_salt(algorithm, hash_name)
    scheme, named = _SIGNATURES.get(str(algorithm["algorithm"]), (None, None))
    if scheme is None:
        raise MailRefused(MailFault.SMIME_ALGORITHM, "the signature is neither RSA nor ECDSA with SHA-256 or better")
    if named not in (None, hash_name):
        raise MailRefused(MailFault.SMIME_ALGORITHM, "the signature's hash is another than the content's")
    return hash_name, scheme, 0


def _pss_salt(algorithm: Any, hash_name: str) -> int:
    """RFC 4056: the parameters have to say the hash, and the same one for the mask."""
    if algorithm["parameters"].isValue:
        parameters = _decoded(bytes(algorithm["parameters"]), rfc4055.RSASSA_PSS_params())
        mask = parameters["maskGenAlgorithm"]
        inner = _decoded(bytes(mask["parameters"]), rfc5280.AlgorithmIdentifier())
        named = {str(parameters["hashAlgorithm"]["algorithm"]), str(inner["algorithm"])}
        salt, trailer = int(parameters["saltLength"]), int(parameters["trailerField"])
        if {_HASHES.get(one) for one in named} == {hash_name} and 0 <= salt <= MAX_SALT_OCTETS and trailer == 1:
            return salt
    raise MailRefused(MailFault.SMIME_ALGORITHM, "the parameters of RSASSA-PSS do not say the content's hash")


def _signing_time(attributes: Mapping[str, bytes]) -> datetime | None:
    if _SIGNING_TIME not in attributes:
        return None
    value = _decoded(attributes[_SIGNING_TIME], rfc5652.SigningTime()).getComponent().asDateTime
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise _malformed("the signing time has no time zone")
    return value.astimezone(UTC)


def _secure_headers(attributes: Mapping[str, bytes]) -> tuple[SecureField, ...] | None:
    """RFC 7508 §4.1. Which canonical form was used does not matter: fields are compared in the relaxed one."""
    if _SECURE_HEADERS not in attributes:
        return None
    listed = _decoded(attributes[_SECURE_HEADERS], rfc7508.SecureHeaderFields())["secHeaderFields"]
    return tuple(
        SecureField(
            str(one["field-Name"]).encode("ascii"),
            str(one["field-Value"]).encode("utf-8"),
            int(one["field-Status"]) == _DUPLICATED,
        )
        for one in listed
    )


def _decoded(octets: bytes, kind: Any) -> Any:
    value, rest = ber_decoder.decode(octets, asn1Spec=kind)
    if rest:
        raise _malformed("there is something after the end of a value")
    return value


def _malformed(detail: str) -> MailRefused:
    return MailRefused(MailFault.SMIME_MALFORMED, f"the signature cannot be read: {detail}")
