# SPDX-License-Identifier: GPL-3.0-or-later
"""One file a migration, in the order of their numbers. Later ones only add: the version before must still run."""
