# SPDX-License-Identifier: GPL-3.0-or-later
"""An HTTPS server that says what a test tells it to, and checks every signed request by itself.

Nothing is imported from the client: signatures, headers and nonces are read a second time here.
"""

import base64
import hashlib
import ipaddress
import json
import secrets
import socket
import ssl
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.x509.oid import NameOID


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    assert "=" not in text, "RFC 8555 §6.1: no padding"
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class LocalSigner:
    """A P-256 account key in this process."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        numbers = self._key.public_key().public_numbers()
        self.jwk: Mapping[str, str] = {
            "kty": "EC",
            "crv": "P-256",
            "x": b64(numbers.x.to_bytes(32, "big")),
            "y": b64(numbers.y.to_bytes(32, "big")),
        }
        members = json.dumps(self.jwk, sort_keys=True, separators=(",", ":"))
        self.thumbprint = b64(hashlib.sha256(members.encode()).digest())

    def sign(self, signing_input: bytes) -> bytes:
        r, s = decode_dss_signature(self._key.sign(signing_input, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def verify_es256(jwk: Mapping[str, str], signing_input: bytes, signature: bytes) -> None:
    x, y = (int.from_bytes(unb64(jwk[name]), "big") for name in ("x", "y"))
    der = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    assert len(signature) == 64
    key.verify(der, signing_input, ec.ECDSA(hashes.SHA256()))


@dataclass(frozen=True)
class TlsFiles:
    """A CA of our own, and certificate and key of 127.0.0.1 under it."""

    ca: Path
    chain: Path


def make_tls_files(directory: Path, *, name: str = "127.0.0.1") -> TlsFiles:
    now = datetime.now(UTC)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Test root {secrets.token_hex(4)}")])

    def certificate(
        subject: x509.Name, public: ec.EllipticCurvePublicKey, *extensions: x509.ExtensionType
    ) -> x509.Certificate:
        builder = x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(ca_key, hashes.SHA256())

    root = certificate(issuer, ca_key.public_key(), x509.BasicConstraints(ca=True, path_length=0))
    leaf = certificate(
        x509.Name([]),
        key.public_key(),
        x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))]),
    )
    pem = serialization.Encoding.PEM
    files = TlsFiles(directory / "ca.pem", directory / "server.pem")
    files.ca.write_bytes(root.public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files.chain.write_bytes(private + leaf.public_bytes(pem))
    return files


@dataclass
class Say:
    """One scripted answer. nonce: True adds a fresh one, False none, a string that one."""

    body: object = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = None
    nonce: bool | str = True
    fault: str | None = None  # "reset", "cut" (mid-body close), "drip" and "drip-head" (a byte at a time)


@dataclass(frozen=True)
class Post:
    """One request that passed all checks."""

    path: str
    protected: dict[str, Any]
    payload: bytes
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.payload)


Script = Say | Callable[[Post | None], Say]


class ScriptedAuthority:
    """Start with `with`; `url` is the directory's. `say(path, …)` queues answers; without one: 404."""

    def __init__(self, tls: TlsFiles) -> None:
        self._script: defaultdict[str, deque[Script]] = defaultdict(deque)
        self._always: dict[str, Script] = {}
        self._lock = threading.Lock()
        self._nonces: set[str] = set()
        self.posts: list[Post] = []
        self.requests: list[tuple[str, str]] = []
        self.violations: list[str] = []
        self.connections = 0
        self.directory: dict[str, object] = {}
        self.keys: dict[str, Mapping[str, str]] = {}
        self._server = _Server(("127.0.0.1", 0), _handler_for(self))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.chain)
        self.tls_context = context
        self._server.tls = context
        self.port: int = self._server.server_address[1]
        self.base = f"https://127.0.0.1:{self.port}"
        self.url = f"{self.base}/directory"
        names = ("newNonce", "newAccount", "newOrder", "revokeCert", "keyChange", "renewalInfo")
        self.directory = {name: f"{self.base}/{name}" for name in names}
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> "ScriptedAuthority":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def say(self, path: str, *answers: Script) -> None:
        """Queue answers for one path."""
        self._script[path].extend(answers)

    def always(self, path: str, answer: Script) -> None:
        """Answer a path so whenever its queue is empty."""
        self._always[path] = answer

    def nonce(self) -> str:
        fresh = secrets.token_urlsafe(12)
        with self._lock:
            self._nonces.add(fresh)
        return fresh

    def spend(self, nonce: str) -> bool:
        with self._lock:
            known = nonce in self._nonces
            self._nonces.discard(nonce)
            return known

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Say:
        with self._lock:
            self.requests.append((method, path))
        post = None
        if method == "POST":
            try:
                post = self._checked_post(path, headers, body)
            except (AssertionError, KeyError, ValueError, TypeError, InvalidSignature) as error:
                self.violations.append(f"{path}: {error!r}")
                return Say({"type": "urn:ietf:params:acme:error:malformed", "detail": str(error)}, 400)
            if not self.spend(post.protected["nonce"]):
                return bad_nonce()
            with self._lock:
                self.posts.append(post)
        with self._lock:
            queue = self._script[path]
            script = queue.popleft() if queue else self._always.get(path) or self._default(path)
        return script if isinstance(script, Say) else script(post)

    def _default(self, path: str) -> Say:
        if path == "/directory":
            return Say(self.directory, nonce=False)
        if path == "/newNonce":
            return Say(headers={"Cache-Control": "no-store"})
        return Say({"type": "urn:ietf:params:acme:error:malformed", "detail": "nothing here"}, 404)

    def _checked_post(self, path: str, headers: Mapping[str, str], body: bytes) -> Post:
        assert headers["Content-Type"] == "application/jose+json"
        assert "requests/" in headers["User-Agent"]
        assert headers["Accept-Language"]
        assert headers.get("Cookie") is None
        jws = json.loads(body)
        assert set(jws) == {"protected", "payload", "signature"}
        protected = json.loads(unb64(jws["protected"]))
        assert protected["alg"] == "ES256"
        assert set(protected) in ({"alg", "nonce", "url", "jwk"}, {"alg", "nonce", "url", "kid"})
        assert protected["url"] == self.base + path
        jwk = protected.get("jwk") or self.keys[protected["kid"]]
        verify_es256(jwk, f"{jws['protected']}.{jws['payload']}".encode(), unb64(jws["signature"]))
        return Post(path, protected, unb64(jws["payload"]), headers)


def problem(kind: str, status: int = 400, *, nonce: bool | str = True, **members: object) -> Say:
    document = {"type": f"urn:ietf:params:acme:error:{kind}", "detail": f"{kind} it is", **members}
    return Say(document, status, content_type="application/problem+json", nonce=nonce)


def bad_nonce(*, nonce: bool | str = True) -> Say:
    return problem("badNonce", nonce=nonce)


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128
    tls: ssl.SSLContext

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        # The handshake happens at the first read, in the connection's own thread.
        return self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request: object, client_address: object) -> None:
        """Handshakes that the client refuses and resets are what the tests are about."""


def _handler_for(authority: ScriptedAuthority) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 5
        disable_nagle_algorithm = True
        wbufsize = -1

        def setup(self) -> None:
            super().setup()
            authority.connections += 1

        def log_message(self, *_: object) -> None:
            pass

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            say = authority.answer(self.command, self.path, dict(self.headers.items()), body)
            if say.fault == "reset":
                # No TLS close_notify, no FIN: the peer sees the connection die.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                socket.close(self.connection.detach())
                return
            if say.fault == "drip-head":
                self._drip(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 60)
                self.close_connection = True
                return
            content = say.body if isinstance(say.body, bytes) else json.dumps(say.body).encode()
            self.send_response(say.status)
            if say.nonce:
                self.send_header("Replay-Nonce", authority.nonce() if say.nonce is True else say.nonce)
            kind = say.content_type or ("application/json" if not isinstance(say.body, bytes) else None)
            if kind:
                self.send_header("Content-Type", kind)
            for name, value in say.headers.items():
                self.send_header(name, value)
            if "Content-Length" not in say.headers:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if say.fault == "cut":
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
            elif say.fault == "drip":
                self._drip(content)
            else:
                self.wfile.write(content)

        def _drip(self, content: bytes) -> None:
            for byte in content:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.05)

        do_GET = do_POST = do_HEAD = _serve  # noqa: N815  # http.server's names

    return Handler
