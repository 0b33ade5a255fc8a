# SPDX-License-Identifier: GPL-3.0-or-later
"""A snippet of a zone with SMIMEA records, for the zone's own file to $INCLUDE: a block for each mailbox, sorted.

The block of a mailbox is its address in a comment and its records, each on one line with its whole name, so that no
$ORIGIN matters (RFC 1035 §5.1). What has expired is left out whenever the file is written.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from acme_milter.delivery.directories import Rights
from acme_milter.delivery.placing import placing, rights_kept
from acme_milter.delivery.smimea_record import SmimeaRecord, owner_name
from acme_milter.delivery.target import Claimed, DeliveryFailed

_RIGHTS = Rights(0o644)  # all of it is published anyway, and the name server is another user
_MAX_SNIPPET = 256 * 1024 * 1024
_HEAD = "; SMIMEA records (RFC 8162), written by acme-milter: changes by hand are lost."
_MAILBOX = re.compile(r"; (\S+@\S+)\Z")
_RECORD = re.compile(r"(\S+)\. [0-9]+ IN SMIMEA [0-9a-f ]+ ; serial [0-9a-f]+ until (\S+)\Z")

_Blocks = dict[str, list[str]]


def write_block(
    path: Path, address: str, records: Iterable[SmimeaRecord], *, ttl: int, now: datetime, patience: float, job: Claimed
) -> None:
    """Make these the only records of the mailbox in the snippet, which is replaced as a whole or not at all.

    `ttl` and `patience` are in seconds; the latter is how long another writer is waited for. Nothing is written when
    the job is another's by then. Raises DeliveryFailed, also when the file has a line that is none of ours: somebody
    may need it.
    """
    owner = owner_name(address)
    # The directory and what the path leads to: a link to the snippet stays one.
    path = path.resolve()
    with placing(path.parent, (), _RIGHTS) as place:
        place.lock(path.name, patience)
        found = place.read(path.name, _MAX_SNIPPET)
        old = b"" if found is None else found[0]
        blocks, records = _read(old, path), list(records)
        if found is None and not records:
            return
        blocks[address] = sorted({_line(owner, ttl, record) for record in records})
        new = _written(blocks, now)
        if new == old:
            return
        place.stage(path.name, _RIGHTS if found is None else rights_kept(found[1]), new)
        job.be_ours()
        place.commit()


def _line(owner: str, ttl: int, record: SmimeaRecord) -> str:
    until = record.not_after.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{owner}. {ttl} IN SMIMEA {record.data()} ; serial {record.serial} until {until}"


def _read(octets: bytes, path: Path) -> _Blocks:
    blocks: _Blocks = {}
    address = None
    for number, line in enumerate(octets.decode("utf-8", "replace").split("\n"), 1):
        mailbox = _MAILBOX.match(line)
        record = _RECORD.match(line)
        if mailbox is not None:
            address = mailbox[1]
            blocks.setdefault(address, [])
        elif record is not None and address is not None and record[1] == owner_name(address):
            blocks[address].append(line)
        elif line not in {"", _HEAD}:
            what = "is not of acme-milter's making; move it to another file, or name another path"
            raise DeliveryFailed(f"{path}: line {number} {what}", permanent=True)
    return blocks


def _written(blocks: _Blocks, now: datetime) -> bytes:
    lines = [_HEAD]
    for address in sorted(blocks, key=lambda one: (one.rpartition("@")[2], one)):
        lasting = _lasting(blocks[address], now)
        if lasting:
            lines += ["", f"; {address}", *lasting]
    return ("\n".join(lines) + "\n").encode("utf-8")


def _lasting(lines: Sequence[str], now: datetime) -> list[str]:
    return [line for line in lines if datetime.fromisoformat(line.rpartition(" until ")[2]) > now]
