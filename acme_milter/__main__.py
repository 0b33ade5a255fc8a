# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m acme_milter`: the command line, without needing its script on PATH."""

from acme_milter.cli.main import main

main()
