# SPDX-License-Identifier: GPL-3.0-or-later
"""A strict, fault-injecting RFC 8823 certification authority for tests, the demo and rehearsals.

It reads the RFCs a second time: no protocol code is shared with the client, so that two readings must agree.
"""
