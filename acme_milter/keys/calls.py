# SPDX-License-Identifier: GPL-3.0-or-later
"""What keyd does: a closed list of calls, each with sealed keys that the caller keeps.

keyd keeps nothing: whoever asks stores the sealed key it is given and brings it along with the next call, so that a
killed keyd has lost nothing. A key is sealed for its purpose, its id and its owner; brought with any others, it does
not open. So an account key never makes a PKCS#12 file, and a mailbox key never signs an ACME request.

Answers are {"refused": reason}, or what the call gives. Bodies are several octet strings in a row, whose lengths the
header tells in "parts".
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from acme_milter import __version__
from acme_milter.certificate.csr import MailboxPrivateKey, build_csr, csr_public_key_spki, spki_of
from acme_milter.certificate.pkcs12 import (
    P12Format,
    build_clear_pem,
    build_encrypted_pem,
    build_pkcs12,
    generate_passphrase,
)
from acme_milter.certificate.refusal import CertificateRefused
from acme_milter.certificate.subject_name import InvalidAddress
from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.keys.algorithm import KeyAlgorithm, algorithm_of, decode_key, encode_key, generate_key
from acme_milter.keys.clear_file import check_file, write_all
from acme_milter.keys.import_child import open_pkcs12
from acme_milter.keys.jwk import public_jwk
from acme_milter.keys.jws_input import check_signing_input
from acme_milter.keys.pool import KeyPool
from acme_milter.keys.refusal import KeydRefused
from acme_milter.keys.request import Answer, Request
from acme_milter.keys.sealing import SealBroken, seal, unseal
from acme_milter.keys.wrapping_key import WrappingKey

_ACCOUNT_KEYS_OPEN = 64
_COORDINATE_SIZE = 32  # P-256


@dataclass(frozen=True, slots=True)
class _AccountKey:
    private_key: ec.EllipticCurvePrivateKey
    jwk: Mapping[str, str]


class Keyd:
    """Answers requests; any number of threads may call `handle` at once."""

    def __init__(self, wrapping_key: WrappingKey, pool: KeyPool) -> None:
        self._wrapping_key_id = wrapping_key.id
        self._seal_key = wrapping_key.keys_key()
        self._data_key = wrapping_key.data_key()
        self._pool = pool
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[str, str, bytes], _AccountKey] = OrderedDict()
        self._count: Counter[str] = Counter()
        self._calls: dict[str, Callable[[Request], Answer]] = {
            "new_account_key": self._new_account_key,
            "new_mailbox_key": self._new_mailbox_key,
            "import_mailbox_key": self._import_mailbox_key,
            "sign_jws": self._sign_jws,
            "export_pkcs12": self._export_pkcs12,
            "export_pem": self._export_pem,
            "write_clear_pem": self._write_clear_pem,
            "data_key": self._give_data_key,
            "status": self._status,
        }

    def handle(self, header: Mapping[str, object], body: bytes, file: int | None = None) -> Answer:
        """Answer one request, `file` being the open file that came with it, if one did. What is refused is an answer;
        an exception is a fault of ours.
        """
        name = str(header.get("call"))
        try:
            answer = self._calls.get(name, _refuse_unknown)(Request(header, body, file))
        except KeydRefused as refusal:
            self._add("refused")
            return {"refused": refusal.reason}, b""
        self._add(name)
        return answer

    def _add(self, name: str) -> None:
        with self._lock:
            self._count[name] += 1

    def _new_account_key(self, request: Request) -> Answer:
        # RFC 8555 §11.1: a fresh key for every account; it is never one of a mailbox, those are made elsewhere.
        ids = _account_ids(request)
        private_key = ec.generate_private_key(ec.SECP256R1())
        return {"jwk": public_jwk(private_key.public_key())}, seal(self._seal_key, encode_key(private_key), ids)

    def _new_mailbox_key(self, request: Request) -> Answer:
        ids = _mailbox_ids(request)
        algorithm = request.member(KeyAlgorithm, "algorithm")
        usage = request.member(KeyUsageKind, "usage", KeyUsageKind.DUAL)
        addresses = request.texts("addresses")
        if len(set(addresses)) != len(addresses):
            raise KeydRefused("an address is named twice")
        private_key = self._pool.take(algorithm) if algorithm.is_rsa else generate_key(algorithm)
        try:
            csr = build_csr(private_key, addresses, usage)
        except InvalidAddress:
            raise KeydRefused("an address that no certificate can carry") from None
        # Reading it back checks its signature: the pair works before anybody relies on it.
        spki = csr_public_key_spki(csr)
        assert spki == spki_of(private_key.public_key())
        return _joined(seal(self._seal_key, encode_key(private_key), ids), csr, spki)

    def _import_mailbox_key(self, request: Request) -> Answer:
        """A key from elsewhere: sealed like our own, once its certificate is seen to be its own and the address's."""
        (file,) = request.parts(1)
        ids = _mailbox_ids(request)
        address = request.text("address")
        pkcs8, chain_pem = open_pkcs12(file, request.text("passphrase"), address)
        try:
            private_key = decode_key(pkcs8)
            algorithm = algorithm_of(private_key)
            csr = build_csr(private_key, [address], KeyUsageKind.DUAL)
        except InvalidAddress:
            raise KeydRefused("an address that no certificate can carry") from None
        except ValueError:
            raise KeydRefused("a key of a kind that is not made here") from None
        sealed = seal(self._seal_key, encode_key(private_key), ids)
        header, body = _joined(sealed, csr, spki_of(private_key.public_key()), chain_pem)
        return {**header, "algorithm": algorithm.value}, body

    def _sign_jws(self, request: Request) -> Answer:
        """A third part is the account's next sealed key: the one that a key change may name."""
        sealed, signing_input, *next_sealed = request.parts(2, 3)
        account_key = self._account_key(request, sealed)
        # It opens with the ids of the key that signs, or not at all: made here, for this account at this authority.
        next_jwk = self._account_key(request, next_sealed[0]).jwk if next_sealed else None
        check_signing_input(signing_input, account_key.jwk, next_jwk)
        r, s = decode_dss_signature(account_key.private_key.sign(signing_input, ec.ECDSA(hashes.SHA256())))
        # RFC 7518 §3.4: r and s as octets of the curve's size, not DER.
        return {}, r.to_bytes(_COORDINATE_SIZE, "big") + s.to_bytes(_COORDINATE_SIZE, "big")

    def _export_pkcs12(self, request: Request) -> Answer:
        sealed, chain_pem = request.parts(2)
        p12_format = request.member(P12Format, "format")
        friendly_name = request.text("friendly_name")
        include_chain = request.flag("include_chain", default=True)
        private_key = self._mailbox_key(request, sealed)
        passphrase = generate_passphrase()
        try:
            file = build_pkcs12(
                private_key, chain_pem, passphrase, p12_format, friendly_name, include_chain=include_chain
            )
        except CertificateRefused as refusal:
            raise KeydRefused(f"certificate {refusal.reason.value}") from None
        return {"passphrase": passphrase}, file

    def _export_pem(self, request: Request) -> Answer:
        (sealed,) = request.parts(1)
        passphrase = generate_passphrase()
        return {"passphrase": passphrase}, build_encrypted_pem(self._mailbox_key(request, sealed), passphrase)

    def _write_clear_pem(self, request: Request) -> Answer:
        """The asker's open file gets the key; what goes wrong with the file is told as the system's error number."""
        (sealed,) = request.parts(1)
        file = request.file()
        check_file(file)
        pem = build_clear_pem(self._mailbox_key(request, sealed))
        try:
            write_all(file, pem)
        except OSError as error:
            return {"errno": error.errno}, b""
        return {}, b""

    def _give_data_key(self, request: Request) -> Answer:
        return {}, self._data_key

    def _status(self, request: Request) -> Answer:
        with self._lock:
            calls: dict[str, object] = dict(self._count)
            opened = len(self._open)
        return {
            "version": __version__,
            "wrapping_key": self._wrapping_key_id,
            "pool": self._pool.ready(),
            "account_keys_open": opened,
            "calls": calls,
        }, b""

    def _account_key(self, request: Request, sealed: bytes) -> _AccountKey:
        """Opened once, then kept: signing is the call that a bulk run makes eight times a certificate."""
        ids = _account_ids(request)
        place = (ids["key_id"], ids["authority"], sealed)
        with self._lock:
            if (known := self._open.get(place)) is not None:
                self._open.move_to_end(place)
                return known
        private_key = self._open_key(sealed, ids)
        assert isinstance(private_key, ec.EllipticCurvePrivateKey)
        account_key = _AccountKey(private_key, public_jwk(private_key.public_key()))
        with self._lock:
            self._open[place] = account_key
            if len(self._open) > _ACCOUNT_KEYS_OPEN:
                self._open.popitem(last=False)
        return account_key

    def _mailbox_key(self, request: Request, sealed: bytes) -> MailboxPrivateKey:
        return self._open_key(sealed, _mailbox_ids(request))

    def _open_key(self, sealed: bytes, ids: Mapping[str, str]) -> MailboxPrivateKey:
        try:
            return decode_key(unseal(self._seal_key, sealed, ids))
        except SealBroken:
            raise KeydRefused("seal broken") from None


def _refuse_unknown(request: Request) -> Answer:
    raise KeydRefused("unknown call")


def _account_ids(request: Request) -> dict[str, str]:
    return {"purpose": "account", "key_id": request.text("key_id"), "authority": request.text("authority")}


def _mailbox_ids(request: Request) -> dict[str, str]:
    return {"purpose": "mailbox", "key_id": request.text("key_id"), "principal": request.text("principal")}


def _joined(*parts: bytes) -> Answer:
    lengths: Sequence[int] = [len(part) for part in parts]
    return {"parts": lengths}, b"".join(parts)
