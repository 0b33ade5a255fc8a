# SPDX-License-Identifier: GPL-3.0-or-later
"""The role beside Postfix: lets ordinary mail pass, hands what looks like a challenge to the worker, obeys its answer.

It touches Postfix's socket and the worker's, and nothing else: no database, no DNS, no key, no DKIM arithmetic.
"""
