# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that opens one PKCS#12 file and ends: `python -m acme_milter.keys.import_child`.

A file says itself how many rounds its passphrase takes, and can say so again in each of its encrypted parts, where it
is seen only once those are open. 2^31 rounds are minutes of native code that holds Python's lock: in keyd nobody would
get an answer meanwhile. So it is opened here, where the kernel ends it, and away from the wrapping key.

Standard input is one line of JSON, {"passphrase", "address"}, and the file. Standard output is one line of JSON,
{"refused": reason} or {"parts": [lengths]}, and the two parts: the key as unencrypted PKCS#8, and its chain as PEM.
"""

import ctypes
import json
import resource
import signal
import sys

from acme_milter.certificate.imported import Pkcs12Unreadable, read_pkcs12
from acme_milter.certificate.refusal import CertificateRefused
from acme_milter.keys.algorithm import encode_key
from acme_milter.keys.refusal import KeydRefused
from acme_milter.keys.request import split_parts
from acme_milter.program import ProgramFault, run_program

CPU_SECONDS = 5
"""An honest file of some hundred thousand rounds takes a tenth of a second."""

_WALL_SECONDS = 20.0
_MAX_ADDRESS_SPACE = 512 * 1024 * 1024
_MAX_OUTPUT = 1024 * 1024
_PR_SET_PDEATHSIG = 1  # prctl(2)
_PR_SET_DUMPABLE = 4


def open_pkcs12(file: bytes, passphrase: str, address: str) -> tuple[bytes, bytes]:
    """(key as unencrypted PKCS#8, chain as PEM) of a file that is for `address`, opened in a process of its own.

    Raises KeydRefused when it cannot be opened, is not the address's, or takes too long.
    """
    asked = json.dumps({"passphrase": passphrase, "address": address}).encode("ascii")
    argv = [sys.executable, "-I", "-m", "acme_milter.keys.import_child"]
    try:
        done = run_program(argv, timeout=_WALL_SECONDS, given=asked + b"\n" + file, max_output=_MAX_OUTPUT)
    except ProgramFault:
        raise KeydRefused("it cannot be opened within bounds of time and size") from None
    if done.status != 0:
        # Nothing of its own words is told: they may quote the file.
        raise KeydRefused("it cannot be opened within bounds of time and memory")
    line, _, body = done.output.partition(b"\n")
    answer = json.loads(line)
    if "refused" in answer:
        raise KeydRefused(str(answer["refused"]))
    parts = split_parts(answer, body)
    assert parts is not None
    assert len(parts) == 2
    return parts[0], parts[1]


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_ADDRESS_SPACE, _MAX_ADDRESS_SPACE))
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_DUMPABLE, 0), (_PR_SET_PDEATHSIG, signal.SIGKILL)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl failed")


def _answer(given: bytes) -> tuple[dict[str, object], bytes]:
    line, _, file = given.partition(b"\n")
    asked = json.loads(line)
    try:
        private_key, chain_pem = read_pkcs12(file, asked["passphrase"], asked["address"])
    except Pkcs12Unreadable as unreadable:
        return {"refused": str(unreadable)}, b""
    except CertificateRefused as refusal:
        return {"refused": f"certificate {refusal.reason.value}"}, b""
    key = encode_key(private_key)
    return {"parts": [len(key), len(chain_pem)]}, key + chain_pem


def _main() -> None:
    _limit()
    header, body = _answer(sys.stdin.buffer.read())
    sys.stdout.buffer.write(json.dumps(header).encode("ascii") + b"\n" + body)


if __name__ == "__main__":
    _main()
