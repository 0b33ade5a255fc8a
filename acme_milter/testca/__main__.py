# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m acme_milter.testca`."""

from acme_milter.testca.command import testca

if __name__ == "__main__":
    testca(prog_name="python -m acme_milter.testca")
