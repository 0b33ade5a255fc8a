# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that judges S/MIME signatures and nothing else: `python -m acme_milter.worker.smime_child`.

Certificates and ASN.1 from strangers are read here, confined as DKIM's arithmetic is: two CPU seconds a job, bounded
memory, nothing of the worker's environment, no socket that Python could open, dead when its parent is. The trusted
certificates come with the job.

A job on standard input is three big-endian 32-bit numbers, the lengths of what follows: a JSON object (`now` and
`not_before`, seconds since the epoch, the latter or null), the trusted certificates in PEM, the mail. The answer on
standard output is one such length and a JSON object: `fault` (or null), `detail`, `signer`, `protection`,
`dated`.
"""

import importlib
import json
import os
import signal
import struct
import sys
from datetime import UTC, datetime
from typing import BinaryIO

from acme_milter.protocol.faults import MailFault
from acme_milter.protocol.smime_verdict import SmimeVerdict
from acme_milter.worker.dkim_child import allow_cpu_for_one_job, confine

JOB_HEADER = struct.Struct(">III")
ANSWER_HEADER = struct.Struct(">I")


def serve(jobs: BinaryIO, answers: BinaryIO) -> None:
    """Answer jobs until the input ends."""
    while len(header := jobs.read(JOB_HEADER.size)) == JOB_HEADER.size:
        about_length, trusted_length, mail_length = JOB_HEADER.unpack(header)
        about, trusted, raw = jobs.read(about_length), jobs.read(trusted_length), jobs.read(mail_length)
        if len(raw) != mail_length:
            return
        allow_cpu_for_one_job()
        answer = _as_json(_verdict(json.loads(about), trusted, raw))
        answers.write(ANSWER_HEADER.pack(len(answer)) + answer)
        answers.flush()


def _verdict(about: dict[str, float | None], trusted: bytes, raw: bytes) -> SmimeVerdict:
    from acme_milter.worker.smime_arithmetic import judge

    now, not_before = _moment(about["now"]), _moment(about["not_before"])
    assert now is not None
    try:
        return judge(raw, trusted, now=now, not_before=not_before)
    except MemoryError:
        raise  # a process short of memory proves nothing about its next job either: let it end
    except Exception:  # noqa: BLE001 - the process's edge: whatever a library raises, nothing is proven
        return SmimeVerdict(MailFault.SMIME_MALFORMED, "the signature cannot be read: a library gave up on it")


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _as_json(verdict: SmimeVerdict) -> bytes:
    document = {
        "fault": None if verdict.fault is None else verdict.fault.value,
        "detail": verdict.detail,
        "signer": verdict.signer,
        "protection": verdict.protection,
        "dated": verdict.dated,
    }
    return json.dumps(document).encode("ascii")


def main() -> None:
    """The process: confined first, then serving standard input."""
    confine()
    # A Ctrl-C in the terminal is for the parent to act upon.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever a library might print must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # Only in the confined process, for the worker itself never loads a reader of ASN.1; and before the first job, whose
    # CPU seconds are its own.
    importlib.import_module("acme_milter.worker.smime_arithmetic")
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
