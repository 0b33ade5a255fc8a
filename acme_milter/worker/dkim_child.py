# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that does DKIM arithmetic and nothing else: `python -m acme_milter.worker.dkim_child`.

dkimpy's patterns can be made to run for minutes by a mail of a few kilobytes, and a pattern that runs holds Python's
lock. So it runs here, where the kernel ends it: two CPU seconds a job, bounded memory, no core file, dead when its
parent is. Python opens no socket and asks for no name here; the key record comes with the job.

A job on standard input is three big-endian 32-bit numbers (signature index from the top, length of the key record,
length of the mail) and the two texts; the answer on standard output is one octet, 1 for a signature that verifies.
"""

import ctypes
import math
import os
import re
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, BinaryIO

JOB_HEADER = struct.Struct(">III")
VALID = b"\x01"
INVALID = b"\x00"

CPU_SECONDS_PER_JOB = 2
MAX_ADDRESS_SPACE = 512 * 1024 * 1024
MINIMUM_RSA_BITS = 1024
_PR_SET_PDEATHSIG = 1
_TRAILING_BLANKS = re.compile(rb"(?<![\t ])[\t ]+\r\n")


def verify_signature(raw: bytes, index: int, key_record: bytes) -> bool:
    """Whether the DKIM-Signature field number `index` (top = 0) of `raw` verifies with `key_record`.

    Only dkimpy's clean True is true: its other answers and its many exceptions alike mean that nothing is proven.
    """
    import dkim

    def txt(_name: bytes, timeout: int = 5) -> bytes:
        return key_record

    try:
        verdict = dkim.DKIM(raw, minkey=MINIMUM_RSA_BITS).verify(idx=index, dnsfunc=txt)
    except MemoryError:
        raise  # a process short of memory proves nothing about its next job either: let it end
    except Exception:  # noqa: BLE001 - the process's edge: dkimpy lets IndexError, MessageFormatError and others escape
        return False
    return verdict is True


def fit_fast_parts() -> bool:
    """Replace two of dkimpy's functions by equal ones: RSA by `cryptography`, blank stripping in linear time.

    And have it leave t= and x= alone: protocol.dkim_policy judges them by the worker's clock, which may be another.
    False, with dkimpy left as it is, when it no longer has these functions or they no longer agree on a sample.
    """
    import dkim
    from dkim import canonicalization

    wanted = (
        (dkim, "RSASSA_PKCS1_v1_5_verify"),
        (dkim, "validate_signature_fields"),
        (canonicalization, "strip_trailing_whitespace"),
    )
    if not all(callable(getattr(module, name, None)) for module, name in wanted):
        return False
    sample = b" a \t\r\n\t \r\nb\tc\r\n  "
    if canonicalization.strip_trailing_whitespace(sample) != strip_trailing_blanks(sample):
        return False
    # dkimpy publishes no way to choose these; the tests hold the replacements against the originals.
    dkim.RSASSA_PKCS1_v1_5_verify = rsa_verify
    dkim.validate_signature_fields = timeless(dkim.validate_signature_fields)
    canonicalization.strip_trailing_whitespace = strip_trailing_blanks
    return True


def timeless(validate: Callable[..., None]) -> Callable[..., None]:
    """dkimpy's check of a signature's tags, which do not hold the times."""

    def check(tags: dict[bytes, bytes], *others: Any) -> None:
        validate({name: value for name, value in tags.items() if name not in {b"t", b"x"}}, *others)

    return check


def strip_trailing_blanks(content: bytes) -> bytes:
    """Blanks before each CRLF removed; the look-behind keeps a long run of blanks linear."""
    return _TRAILING_BLANKS.sub(b"\r\n", content)


def rsa_verify(hasher: Any, signature: bytes, public_key: dict[str, int]) -> bool:
    """RSASSA-PKCS1-v1_5 with SHA-256 as dkimpy calls it: its hash object, the signature, modulus and exponent."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils
    from cryptography.hazmat.primitives.hashes import SHA256

    if hasher.name != "sha256":
        return False
    key = rsa.RSAPublicNumbers(public_key["publicExponent"], public_key["modulus"]).public_key()
    try:
        key.verify(signature, hasher.digest(), padding.PKCS1v15(), utils.Prehashed(SHA256()))
    except InvalidSignature:
        return False
    return True


def confine() -> None:
    """Give up what this process never needs: core files, more memory, outliving its parent, sockets.

    Sockets as far as it is Python code that asks: a system call of native code is not seen here. Irrevocable.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_SPACE, MAX_ADDRESS_SPACE))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    sys.addaudithook(_refuse_sockets)


def _refuse_sockets(event: str, _arguments: tuple[object, ...]) -> None:
    if event.startswith("socket."):  # names are asked for by way of libc's own sockets
        raise PermissionError("a child that reads mails opens no socket")


def allow_cpu_for_one_job() -> None:
    """Raise the soft CPU limit to two seconds from now (rounded up: the kernel counts whole seconds)."""
    soft = math.ceil(time.process_time()) + CPU_SECONDS_PER_JOB
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def serve(jobs: BinaryIO, answers: BinaryIO) -> None:
    """Answer jobs until the input ends."""
    while len(header := jobs.read(JOB_HEADER.size)) == JOB_HEADER.size:
        index, key_length, mail_length = JOB_HEADER.unpack(header)
        key_record, raw = jobs.read(key_length), jobs.read(mail_length)
        if len(raw) != mail_length:
            return
        allow_cpu_for_one_job()
        answers.write(VALID if verify_signature(raw, index, key_record) else INVALID)
        answers.flush()


def main() -> None:
    """The process: confined first, then serving standard input."""
    confine()
    # A Ctrl-C in the terminal is for the parent to act upon.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever a library might print must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    fit_fast_parts()
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
