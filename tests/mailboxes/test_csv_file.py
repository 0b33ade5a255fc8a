# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailboxes from a CSV file: what a personnel department exports, and what goes wrong with such files."""

import os
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from acme_milter.config.sources import CsvSource
from acme_milter.mailboxes.csv_file import CsvFile
from acme_milter.mailboxes.entry import Entry
from acme_milter.mailboxes.source import Reading, SourceFault

LONG_AGO = 1_700_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "staff.csv"


def put(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def read(path: Path, *, today: date = date(2026, 11, 22), **section: str) -> Reading:
    checked = CsvSource.model_validate({"type": "csv", "path": path, **section})
    return CsvFile("hr", checked, today=lambda: today).read()


def fault(path: Path) -> str:
    with pytest.raises(SourceFault) as stopped:
        read(path)
    return str(stopped.value)


def test_every_column_is_understood(path: Path) -> None:
    put(path, 'Address,ID,name,groups\r\nAnn@Example.ORG,7,"Berg, Ann",Staff;Sales | EU\r\n')
    expected = Entry("Ann@example.org", "7", "Berg, Ann", frozenset({"Staff", "Sales", "EU"}))
    assert read(path) == Reading((expected,))


def test_a_name_may_come_in_two_columns(path: Path) -> None:
    put(path, "surname,given_name,address\nBerg,Ann,ann@example.org\n,Bob,bob@example.org\n")
    assert [entry.name for entry in read(path).entries] == ["Ann Berg", "Bob"]


def test_a_byte_order_mark_and_semicolons_are_what_spreadsheets_write(path: Path) -> None:
    put(path, b"\xef\xbb\xbfaddress;name\r\nann@example.org;\xc3\x84nn\r\n")
    assert [entry.name for entry in read(path, delimiter=";").entries] == ["Änn"]
    assert "write delimiter: ';'" in fault(path)


def test_columns_that_nobody_knows_are_named_in_a_remark(path: Path) -> None:
    put(path, "address,room\nann@example.org,12\n")
    assert read(path).remarks == (f"{path}: the column room is not used",)


def test_a_mailbox_counts_from_its_first_to_its_last_day(path: Path) -> None:
    put(path, "address,start,end\nann@example.org,2026-11-22,2026-11-22\nbob@example.org,,2026-11-21\n"
              "cid@example.org,2026-11-23,\ndee@example.org,,\n")  # fmt: skip
    reading = read(path)
    assert [entry.address for entry in reading.entries] == ["ann@example.org", "dee@example.org"]
    assert reading.rejected == ()
    assert reading.remarks == (f"{path}: 2 mailboxes are not in use today, by their start and end",)
    assert [entry.address[:3] for entry in read(path, today=date(2026, 11, 23)).entries] == ["cid", "dee"]


def test_a_date_that_is_none_rejects_its_row_by_line(path: Path) -> None:
    put(path, "address,end\nann@example.org,31.12.2026\nbob@example.org,\n")
    reading = read(path)
    assert [entry.address for entry in reading.entries] == ["bob@example.org"]
    assert reading.rejected == (("ann@example.org", "line 2: end is no date such as 2027-01-31"),)


def test_an_address_that_is_none_rejects_its_row_by_line(path: Path) -> None:
    put(path, 'address,name\nann@example.org,"two\nlines"\nann at example.org,Ann\n')
    ((text, reason),) = read(path).rejected
    assert text == "ann at example.org"
    assert reason.startswith("line 4: ")


def test_the_same_address_for_two_ids_belongs_to_nobody(path: Path) -> None:
    put(path, "address,id\nann@example.org,7\nbob@example.org,8\nANN@example.org,9\n")
    reading = read(path)
    assert [entry.address for entry in reading.entries] == ["bob@example.org"]
    assert reading.rejected == (("ANN@example.org", "line 4: listed for two different ids"),)


def test_blank_lines_are_nothing(path: Path) -> None:
    put(path, "address,id\n\nann@example.org,7\n,\n\n")
    assert len(read(path).entries) == 1


def test_a_header_alone_is_an_empty_reading(path: Path) -> None:
    put(path, "address\n")
    assert read(path) == Reading(())


@pytest.mark.parametrize(
    ("content", "where", "why"),
    [
        ("", "", "is empty"),
        ("name,mail\nAnn,ann@example.org\n", ":1", "no column address among name, mail"),
        ("address,id,address\n", ":1", "the column address is there twice"),
        ("address,id\nann@example.org\n", ":2", "1 fields instead of 2"),
        ("address,id\na@example.org,1\nann@example.org,Berg, Ann\n", ":3", "3 fields instead of 2"),
        ('address,name\n"ann@example.org,Ann\nbob@example.org,Bob\n', ":2", "is a quotation mark missing?"),
        ('address,name\nann@example.org,"Ann"x\n', ":2", "is a quotation mark missing?"),
        (f'address,name\nann@example.org,"{"x" * 5000}"\n', ":2", "is a quotation mark missing?"),
        ("address\nann@example.org\nbob@exam", ":3", "the last line has no newline"),
        (b"address,name\nann@example.org,\xc4nn\n", ":2", "is not UTF-8"),
        ("address\n".encode("utf-16"), ":1", "is UTF-16"),
    ],
)
def test_a_file_that_is_no_such_table_is_a_fault_with_its_line(
    path: Path, content: str | bytes, where: str, why: str
) -> None:
    said = fault(put(path, content))
    assert said.startswith(f"source hr: {path}{where}: ")
    assert why in said


def test_a_file_that_is_not_there_or_not_a_file_is_a_fault(path: Path) -> None:
    assert "No such file or directory" in fault(path)
    path.mkdir()
    assert "is no regular file" in fault(path)
    os.mkfifo(path.with_name("pipe"))
    assert "is no regular file" in fault(path.with_name("pipe"))


def reader(path: Path, wait: Callable[[float], None], now: float) -> CsvFile:
    checked = CsvSource.model_validate({"type": "csv", "path": path, "timeout": "3s"})
    return CsvFile("hr", checked, now=lambda: now, wait=wait)


def test_a_file_that_is_being_written_is_waited_for(path: Path) -> None:
    put(path, "address\nann@example.org\n")
    waits: list[float] = []

    def writer_goes_on(seconds: float) -> None:
        waits.append(seconds)
        put(path, "address\nann@example.org\nbob@example.org\n")
        os.utime(path, (LONG_AGO - 10, LONG_AGO - 10))  # and has been quiet since

    reading = reader(path, writer_goes_on, now=LONG_AGO + 0.25).read()
    assert len(reading.entries) == 2
    assert waits == [0.75]


def test_a_file_that_is_written_for_ever_is_a_fault(path: Path) -> None:
    put(path, "address\nann@example.org\n")
    with pytest.raises(SourceFault, match="again and again"):
        reader(path, lambda _: None, now=LONG_AGO).read()


def test_a_file_that_shrinks_while_it_is_read_is_a_fault(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(path, "address\nann@example.org\nbob@example.org\n")
    identify = os.fstat

    def fstat_then_truncate(descriptor: int) -> os.stat_result:
        status = identify(descriptor)
        put(path, "address\nann@example.org\n")
        return status

    monkeypatch.setattr("acme_milter.mailboxes.csv_file.os.fstat", fstat_then_truncate)
    with pytest.raises(SourceFault, match="was changed while it was read"):
        read(path)
