# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands import what they need when they need it, and nothing of that relies on what another has imported before."""

import subprocess
import sys

# Each module in a fork of a process that knows libraries only: its own imports, then those within its functions.
_IMPORT_EACH_ALONE = """
import ast, importlib, importlib.util, os, pkgutil, sys, traceback
import click, cryptography.x509, pydantic, requests, rich.table, sqlalchemy, yaml
import acme_milter.cli

def imports_within(name):
    for node in ast.walk(ast.parse(open(importlib.util.find_spec(name).origin).read())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield ast.unparse(node)

for module in pkgutil.iter_modules(acme_milter.cli.__path__, "acme_milter.cli."):
    pid = os.fork()
    if pid == 0:
        try:
            importlib.import_module(module.name)
            for statement in imports_within(module.name):
                exec(statement)
        except BaseException:
            print(module.name, flush=True)
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.waitpid(pid, 0)
"""


def test_whatever_is_run_first_can_be_imported() -> None:
    done = subprocess.run([sys.executable, "-c", _IMPORT_EACH_ALONE], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
