# SPDX-License-Identifier: GPL-3.0-or-later
"""The child: its arithmetic, the two replaced functions, and how it is confined."""

import hashlib
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import dkim
import pytest
from dkim import canonicalization
from hypothesis import given
from hypothesis import strategies as st

from acme_milter.worker.dkim_child import (
    INVALID,
    JOB_HEADER,
    MAX_ADDRESS_SPACE,
    VALID,
    rsa_verify,
    strip_trailing_blanks,
    verify_signature,
)
from tests.protocol.sample_mail import SampleKey, SignatureSpec, ed25519_key, good_mail, rsa_key

ORIGINAL_STRIP = canonicalization.strip_trailing_whitespace
ORIGINAL_RSA = dkim.RSASSA_PKCS1_v1_5_verify


@given(st.lists(st.sampled_from([b" ", b"\t", b"\r\n", b"\r", b"\n", b"a", b"  \t"]), max_size=30).map(b"".join))
def test_linear_blank_stripping_equals_dkimpys(content: bytes) -> None:
    assert strip_trailing_blanks(content) == ORIGINAL_STRIP(content)


def test_linear_blank_stripping_is_linear() -> None:
    started = time.process_time()
    strip_trailing_blanks(b" " * 2_000_000 + b"!\r\n")
    assert time.process_time() - started < 1


def test_replaced_rsa_agrees_with_dkimpys_on_true_and_false_signatures() -> None:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    for bits, selector in ((1024, "weak"), (2048, "rsa")):
        key = rsa_key(selector, bits)
        assert isinstance(key.private, RSAPrivateKey)
        numbers = key.private.public_key().public_numbers()
        public = {"modulus": numbers.n, "publicExponent": numbers.e}
        hasher = hashlib.sha256(b"content")
        good = key.sign(b"content", "rsa-sha256")
        wrong = [bytes(len(good)), good[::-1], good[:-1] + bytes([good[-1] ^ 1]), key.sign(b"other", "rsa-sha256")]
        assert rsa_verify(hasher, good, public)
        assert ORIGINAL_RSA(hasher, good, public)
        for signature in wrong:
            assert not rsa_verify(hasher, signature, public)
            assert not ORIGINAL_RSA(hasher, signature, public)
        assert not rsa_verify(hashlib.sha1(b"content"), key.sign(b"content", "rsa-sha1"), public)  # noqa: S324 - refused


@pytest.mark.parametrize("key", [rsa_key(), ed25519_key()], ids=["rsa", "ed25519"])
@pytest.mark.parametrize("form", ["simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed"])
def test_exactly_the_signature_asked_for_is_verified(key: SampleKey, form: str) -> None:
    broken = SignatureSpec(
        key=key, tags={"b": "A" * (344 if key is rsa_key() else 86) + "=" * (0 if key is rsa_key() else 2)}
    )
    raw = good_mail().signed(broken, SignatureSpec(key=key, canonicalization=form))
    assert verify_signature(raw, 1, key.record())
    assert not verify_signature(raw, 0, key.record())
    assert not verify_signature(raw, 2, key.record())
    assert not verify_signature(raw.replace(b"automatically", b"manually"), 1, key.record())


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"\r\n\r\n",
        b" leading blank: x\r\n\r\n",
        b"DKIM-Signature: \r\n\r\n",
        b"DKIM-Signature: v=1\r\n\r\n",
        "Ü: x\r\n\r\n".encode(),
        b"no colon\r\n\r\n",
        b"DKIM-Signature: a=b; a=b\r\n\r\n",
        b"\xff" * 100,
    ],
    ids=ascii,
)
def test_whatever_dkimpy_raises_means_not_proven(raw: bytes) -> None:
    assert not verify_signature(raw, 0, rsa_key().record())


@pytest.mark.parametrize(
    "record",
    [b"", b"\xff", b"p=", b"p=!", b"k=rsa; p=AAAA", b"k=ed25519; p=AAAA", b"k=x; p=AAAA", b"v=DKIM2; p=A"],
    ids=ascii,
)
def test_unusable_key_means_not_proven(record: bytes) -> None:
    assert not verify_signature(good_mail().signed(), 0, record)
    assert not verify_signature(good_mail().signed(SignatureSpec(key=ed25519_key())), 0, record)


@given(st.binary(max_size=300), st.binary(max_size=100), st.integers(0, 3))
def test_any_octets_are_answered_with_no(raw: bytes, record: bytes, index: int) -> None:
    assert verify_signature(raw, index, record) is False


def job(raw: bytes, index: int, record: bytes) -> bytes:
    return JOB_HEADER.pack(index, len(record), len(raw)) + record + raw


def run_child(frames: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "acme_milter.worker.dkim_child"],
        input=frames,
        capture_output=True,
        check=False,
        timeout=60,
    )


def test_child_answers_job_after_job_and_ends_with_its_input() -> None:
    good = good_mail().signed()
    ended = run_child(
        job(good, 0, rsa_key().record()) + job(good, 1, rsa_key().record()) + job(good, 0, rsa_key().record())
    )
    assert (ended.returncode, ended.stdout) == (0, VALID + INVALID + VALID)
    assert ended.stderr == b""


def test_child_leaves_the_times_of_a_signature_to_the_policy_and_its_clock() -> None:
    year = 365 * 86400
    now = int(time.time())
    tags = [{"t": now + 4 * year}, {"t": now - year, "x": now - year + 60}]
    mails = [good_mail().signed(SignatureSpec(tags={name: str(at) for name, at in one.items()})) for one in tags]
    changed = mails[0].replace(b"automatically", b"manually")
    assert not any(verify_signature(raw, 0, rsa_key().record()) for raw in mails)  # dkimpy alone goes by the machine
    ended = run_child(b"".join(job(raw, 0, rsa_key().record()) for raw in (*mails, changed)))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, VALID + VALID + INVALID, b"")


def test_child_ends_quietly_when_its_input_breaks_off() -> None:
    ended = run_child(job(good_mail().signed(), 0, rsa_key().record())[:-1])
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


def test_child_is_confined() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "acme_milter.worker.dkim_child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(job(good_mail().signed(), 0, rsa_key().record()))
        child.stdin.flush()
        assert child.stdout.read(1) == VALID
        assert resource.prlimit(child.pid, resource.RLIMIT_CORE) == (0, 0)
        assert resource.prlimit(child.pid, resource.RLIMIT_AS) == (MAX_ADDRESS_SPACE, MAX_ADDRESS_SPACE)
        assert 2 <= resource.prlimit(child.pid, resource.RLIMIT_CPU)[0] <= 5
        files = Path(f"/proc/{child.pid}/fd").iterdir()
        sockets = [file for file in files if str(file.readlink()).startswith("socket")]
        assert not sockets
        child.stdin.close()
        assert child.wait(10) == 0


_ASKING = """
import socket
from acme_milter.worker.dkim_child import confine
confine()
for ask in (
    lambda: socket.socket(socket.AF_INET),
    lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
    lambda: socket.socket(socket.AF_UNIX),
    socket.socketpair,
    lambda: socket.getaddrinfo("localhost", 25),
    lambda: socket.gethostbyname("localhost"),
):
    try:
        ask()
        print("asked")
    except PermissionError as error:
        print(error)
"""


def test_what_is_confined_opens_no_socket_and_asks_for_no_name() -> None:
    done = subprocess.run([sys.executable, "-c", _ASKING], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["a child that reads mails opens no socket"] * 6


def test_child_dies_with_its_parent() -> None:
    script = (
        "import subprocess, sys, time\n"
        "command = [sys.executable, '-m', 'acme_milter.worker.dkim_child']\n"
        "child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        f"child.stdin.write({job(b'x', 0, b'')!r}); child.stdin.flush(); child.stdout.read(1)\n"
        "import os\n"
        "os.set_inheritable(child.stdin.fileno(), True)\n"
        # This one holds the pipe open, so that only the kernel can tell the child of its parent's end.
        "null = subprocess.DEVNULL\n"
        "keeper = subprocess.Popen(['sleep', '20'], close_fds=False, stdout=null, stderr=null)\n"
        "print(child.pid, keeper.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    parent = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, timeout=60)
    child, keeper = map(int, parent.stdout.split())
    try:
        deadline = time.monotonic() + 10
        while Path(f"/proc/{child}").exists() and _state(child) != "Z" and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not Path(f"/proc/{child}").exists() or _state(child) == "Z"
    finally:
        os.kill(keeper, 9)


def _state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"
