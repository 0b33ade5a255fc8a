# SPDX-License-Identifier: GPL-3.0-or-later
"""What we promised and what we know, on disk. One schema for SQLite and PostgreSQL."""
