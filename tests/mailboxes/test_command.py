# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailboxes from a program of the administrator's: well-behaved ones, hanging ones and lying ones."""

from pathlib import Path

import pytest

from acme_milter.config.sources import CommandSource
from acme_milter.lab.processes import wait_until
from acme_milter.mailboxes.command import CommandOutput
from acme_milter.mailboxes.entry import Entry
from acme_milter.mailboxes.source import Reading, SourceFault
from acme_milter.program import ProgramFault, run_program
from tests.mailboxes.conftest import MakeProgram


def read(*argv: str | Path, timeout: str = "20s") -> Reading:
    section = CommandSource.model_validate({"type": "command", "argv": list(map(str, argv)), "timeout": timeout})
    return CommandOutput("entra", section).read()


def fault(*argv: str | Path, timeout: str = "20s") -> str:
    with pytest.raises(SourceFault) as stopped:
        read(*argv, timeout=timeout)
    return str(stopped.value)


def test_a_json_object_a_line_is_a_mailbox(make_program: MakeProgram) -> None:
    program = make_program(
        """cat <<'END'
{"address": "Ann@Example.org", "id": 7, "name": "Änn", "groups": ["Staff"], "aliases": ["a@example.org"]}
{"id": null, "address": "bob@example.org"}
END"""
    )
    ann = Entry("Ann@example.org", "7", "Änn", frozenset({"Staff"}), ("a@example.org",))
    assert read(program) == Reading((ann, Entry("bob@example.org")))


def test_arguments_reach_the_program_without_a_shell(make_program: MakeProgram) -> None:
    program = make_program('printf \'{"address": "%s@example.org"}\\n\' "$#"')
    assert read(program, "$(touch /tmp/x); a b").entries == (Entry("1@example.org"),)


def test_the_program_sees_nothing_of_our_environment(
    make_program: MakeProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "secret")
    program = make_program(
        'env | cut -d= -f1 | sort | while read -r x; do echo "{\\"address\\": \\"$x@x.org\\"}"; done'
    )
    seen = {entry.address.partition("@")[0] for entry in read(program).entries}
    # A shell sets PWD and its kin by itself.
    assert seen - {"PWD", "OLDPWD", "SHLVL", "_"} == {"PATH", "LANG", "HOME", "ACME_MILTER_SOURCE"}


def test_keys_that_nobody_knows_are_named_in_a_remark(make_program: MakeProgram) -> None:
    reading = read(make_program("""echo '{"address": "ann@example.org", "room": 12}'"""))
    assert reading.remarks == ("the key room is not used",)


def test_a_bad_address_is_rejected_by_line_and_the_others_stay(make_program: MakeProgram) -> None:
    reading = read(make_program("""printf '{"address": "ann@example.org"}\\n{"address": "bob"}\\n'"""))
    assert reading.entries == (Entry("ann@example.org"),)
    assert reading.rejected == (("bob", "line 2: the address does not have exactly one @"),)


def test_a_program_that_prints_nothing_and_ends_well_is_an_empty_reading(make_program: MakeProgram) -> None:
    assert read(make_program("true")) == Reading(())


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("ann@example.org", "is not JSON"),
        ("", "is not JSON"),
        ("[]", "is no JSON object"),
        ('{"mail": "ann@example.org"}', "has no address that is a string"),
        ('{"address": "ann@example.org", "id": true}', "has a id that is no string"),
        ('{"address": "ann@example.org", "groups": "Staff"}', "has groups that are no list of strings"),
        ('{"address": "ann@example.org"', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("\\377", "is not JSON"),
    ],
)
def test_one_line_that_is_no_such_object_stops_the_source_with_its_number(
    make_program: MakeProgram, tmp_path: Path, line: str, why: str
) -> None:
    good = '{"address": "bob@example.org"}'
    (tmp_path / "output").write_bytes(f"{good}\n{line}\n{good}\n".encode().replace(b"\\377", b"\xff"))
    said = fault(make_program(f"cat {tmp_path}/output"))
    assert said == f"source entra: {tmp_path}/list-mailboxes: line 2 of its output {why}" + said.partition(why)[2]
    assert "list was not used" in said


def test_output_that_breaks_off_is_not_used(make_program: MakeProgram) -> None:
    said = fault(make_program("""printf '{"address": "ann@example.org"}\\n{"address": "bob@example.org"}'"""))
    assert "the last line has no newline" in said


def test_a_program_that_fails_is_quoted_and_its_list_not_used(make_program: MakeProgram) -> None:
    program = make_program(
        """echo '{"address": "ann@example.org"}'; echo 'token for https://me:secret@x refused' >&2; exit 3"""
    )
    assert fault(program) == (
        f"source entra: {program} ended with exit status 3: token for https://…@x refused; its list was not used"
    )


def test_a_program_that_is_killed_is_no_empty_list(make_program: MakeProgram) -> None:
    assert "signal SIGSEGV" in fault(make_program("kill -SEGV $$"))


def test_a_program_that_hangs_is_ended_with_everything_it_started(make_program: MakeProgram, tmp_path: Path) -> None:
    program = make_program(f"""echo '{{"address": "a@example.org"}}'; sleep 600 & echo $! > {tmp_path}/child; wait""")
    assert "still ran after 0.3 s and was killed" in fault(program, timeout="300ms")
    wait_until(lambda: not alive(tmp_path / "child"), "the end of what the program started")


def test_a_program_that_leaves_a_child_with_its_output_is_not_believed(make_program: MakeProgram) -> None:
    program = make_program("""echo '{"address": "a@example.org"}'; sleep 600 &""")
    assert "still ran after" in fault(program, timeout="300ms")


def test_a_program_that_closes_its_output_and_stays_is_ended(make_program: MakeProgram) -> None:
    assert "still ran after" in fault(make_program("exec >&- 2>&-; sleep 600"), timeout="300ms")


def test_a_program_that_never_stops_talking_is_ended(make_program: MakeProgram) -> None:
    program = make_program("exec yes")
    with pytest.raises(ProgramFault, match="printed more than 100000 octets and was killed"):
        run_program([str(program)], timeout=60, max_output=100_000)


def test_a_program_that_floods_its_errors_does_not_block(make_program: MakeProgram) -> None:
    program = make_program("""head -c 500000 /dev/zero >&2; echo '{"address": "a@example.org"}'""")
    assert read(program).entries == (Entry("a@example.org"),)


def test_a_program_that_is_not_there_or_may_not_be_run_is_a_fault(tmp_path: Path) -> None:
    assert "is not installed" in fault(tmp_path / "gone")
    (tmp_path / "plain").touch()
    assert "Permission denied" in fault(tmp_path / "plain")


def alive(pid_file: Path) -> bool:
    """False also when the program was ended before it started anything."""
    try:
        return Path(f"/proc/{int(pid_file.read_text())}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return False
