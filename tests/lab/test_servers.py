# SPDX-License-Identifier: GPL-3.0-or-later
"""The private PostgreSQL, slapd and BIND start, keep what is in them over a restart, and leave nothing behind."""

import os
import signal
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest

from acme_milter.lab.bind import BindLab
from acme_milter.lab.postgresql import OWNER, PostgresLab
from acme_milter.lab.processes import ProcessFault, accepts_connections
from acme_milter.lab.slapd import SUFFIX, SlapdLab

UNIT = f"dn: ou=x,{SUFFIX}\nobjectClass: organizationalUnit\nou: x\n"


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_a_postgresql_keeps_its_databases_over_a_restart_and_is_gone_after_removal() -> None:
    directory = Path(tempfile.mkdtemp(prefix="pg-"))
    with PostgresLab(directory) as server:
        url = server.make_database()
        server.execute("CREATE TABLE t AS SELECT 1 AS x", url)
        server.stop()
        assert not accepts_connections("127.0.0.1", server.port)
        server.start()
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            assert connection.execute("SELECT x FROM t").fetchall() == [(1,)]
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(server.url(OWNER, password="wrong").replace("+psycopg", ""))
        connection = psycopg.connect(url.replace("+psycopg", ""))
        children = server.children()
        assert connection.info.backend_pid in children
        os.kill(connection.info.backend_pid, signal.SIGSTOP)  # it would not notice that its server has gone
    connection.close()
    assert not directory.exists()
    assert alive(children) == []


def test_a_slapd_keeps_its_entries_over_a_restart_and_is_gone_after_removal(tmp_path: Path) -> None:
    with SlapdLab(tmp_path / "lab", entries=UNIT) as server:
        server.change(UNIT.replace("ou=x", "ou=y").replace("ou: x", "ou: y"))
        server.stop()
        assert not accepts_connections("127.0.0.1", server.port)
        server.start()
        with pytest.raises(ProcessFault, match="Already exists"):
            server.change(UNIT.replace("ou=x", "ou=y").replace("ou: x", "ou: y"))
    assert not (tmp_path / "lab").exists()
    assert not accepts_connections("127.0.0.1", server.tls_port)


def test_a_bind_keeps_its_updates_over_a_restart_and_is_gone_after_removal(tmp_path: Path) -> None:
    with BindLab(tmp_path / "lab", zones={"example.org": "grant k zonesub ANY;"}, keys=["k"]) as server:
        key = f"hmac-sha256:k:{server.secrets['k']}"
        update = f"server 127.0.0.1 {server.port}\nzone example.org\nupdate add a.example.org 60 TXT hello\nsend\n"
        subprocess.run(["nsupdate", "-y", key], input=update, text=True, check=True, capture_output=True)
        assert server.dig("a.example.org", "TXT") == ['"hello"']
        server.stop()
        assert not accepts_connections("127.0.0.1", server.port)
        server.start()
        assert server.dig("a.example.org", "TXT") == ['"hello"']
    assert not (tmp_path / "lab").exists()
    assert not accepts_connections("127.0.0.1", server.port)
