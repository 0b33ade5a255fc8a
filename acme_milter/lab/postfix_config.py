# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of the lab's main.cf, master.cf and lookup tables: pure, apart from asking the path of a directory."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

MAILBOX_UID = 65534  # virtual(8) refuses uid 0; nobody is enough for mail that lives for minutes
MESSAGE_SIZE_LIMIT = 20 * 1024 * 1024
MILTER_PARAMETERS = "default_action=accept, connect_timeout=5s, command_timeout=10s, content_timeout=30s"

# Name and mode as postfix-files(5) has them. Made by us because `postfix check` would also inspect the machine's own.
QUEUE_DIRECTORIES = {
    **dict.fromkeys(
        (
            "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved",
            "trace",
        ),
        0o700,
    ),
    "maildrop": 0o730,
    "public": 0o710,
    "pid": 0o755,
}  # fmt: skip

_MAIN = """\
compatibility_level = 3.6
queue_directory = {root}/queue
data_directory = ../data
maillog_file = /dev/stdout
mail_owner = postfix
setgid_group = postdrop
myhostname = mx.lab.invalid
mydomain = lab.invalid
myorigin = lab.invalid
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
biff = no
smtputf8_enable = yes
message_size_limit = {size}
virtual_mailbox_limit = 0
# Nothing is looked up in DNS, and nothing can leave the machine but by a route.
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
smtp_host_lookup = native
default_transport = error:5.1.2 this laboratory delivers nowhere else
local_transport = error:5.1.1 this laboratory has no local users
relay_transport = smtp
relay_domains = {routes}
transport_maps = texthash:/proc/self/cwd/../etc/transport
# The MX face is the internet's: no trust in 127.0.0.1, nothing added to or rewritten in a header.
mynetworks = 192.0.2.1/32
smtpd_relay_restrictions = reject_unauth_destination
smtpd_recipient_restrictions =
local_header_rewrite_clients =
smtpd_helo_required = no
smtpd_timeout = 60s
virtual_mailbox_domains = {domains}
# Named from the queue directory, where every daemon works: the parents of {root} may be closed to other users.
virtual_mailbox_base = /proc/self/cwd/../mail
virtual_mailbox_maps = texthash:/proc/self/cwd/../etc/mailboxes
virtual_alias_maps = texthash:/proc/self/cwd/../etc/aliases
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{uid}
# Short queue delays on two cores, and a quick second try when a test's peer was away.
in_flow_delay = 0
default_process_limit = 40
initial_destination_concurrency = 20
default_destination_concurrency_limit = 20
default_destination_concurrency_failed_cohort_limit = 1000
minimal_backoff_time = 1s
maximal_backoff_time = 3s
queue_run_delay = 1s
transport_retry_time = 1s
smtp_connect_timeout = 5s
smtp_connection_cache_on_demand = no
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_hard_error_limit = 1000
smtpd_error_sleep_time = 0
smtp_tls_security_level = none
smtpd_tls_security_level = none
"""

_SERVICES = """\
pickup    unix       n - n 60 1 pickup
cleanup   unix       n - n - 0 cleanup
qmgr      unix       n - n 1 1 qmgr
rewrite   unix       - - n - - trivial-rewrite
bounce    unix       - - n - 0 bounce
defer     unix       - - n - 0 bounce
trace     unix       - - n - 0 bounce
flush     unix       n - n 1000? 0 flush
proxymap  unix       - - n - - proxymap
smtp      unix       - - n - - smtp
error     unix       - - n - - error
retry     unix       - - n - - error
discard   unix       - - n - - discard
virtual   unix       - n n - - virtual
anvil     unix       - - n - 1 anvil
scache    unix       - - n - 1 scache
showq     unix       n - n - - showq
postlog   unix-dgram n - n - 1 postlogd
"""


def main_cf(root: Path, domains: Sequence[str], routes: Mapping[str, object]) -> str:
    """main.cf of a Postfix that lives in `root` and serves `domains`; `routes` are the domains it hands on."""
    return _MAIN.format(
        root=root,
        size=MESSAGE_SIZE_LIMIT,
        uid=MAILBOX_UID,
        domains=" ".join(domains),
        routes=" ".join(sorted(routes)),
    )


def master_cf(smtp_port: int, reply_port: int, mx_milters: str | None, relay_milters: str) -> str:
    """master.cf with the two faces. Without `mx_milters` (Postfix syntax) the MX face keeps main.cf's smtpd_milters."""
    lines = [f"127.0.0.1:{smtp_port} inet n - n - - smtpd"]
    if mx_milters is not None:
        lines.append(f"  -o {{ smtpd_milters = {mx_milters} }}")
    lines += [
        f"127.0.0.1:{reply_port} inet n - n - - smtpd",
        "  -o syslog_name=postfix/reply",
        f"  -o {{ smtpd_milters = {relay_milters} }}",
        "  -o mynetworks=127.0.0.0/8",
        "  -o smtpd_relay_restrictions=permit_mynetworks,reject",
        "  -o smtpd_recipient_restrictions=permit_mynetworks,reject",
    ]
    return "\n".join(lines) + "\n" + _SERVICES


def milter_entry(address: str, queue_directory: Path) -> str:
    """One entry of smtpd_milters with its failure behaviour in braces.

    A socket's path is given relative to the queue directory: Postfix's daemons work there, and so need not be allowed
    to pass through the directories above it.
    """
    return f"{{ {postfix_milter_address(address, queue_directory)}, {MILTER_PARAMETERS} }}"


def postfix_milter_address(address: str, queue_directory: Path) -> str:
    """`inet:PORT@HOST`, `local:/PATH` and `unix:/PATH` (libmilter's way) as Postfix writes them."""
    kind, _, rest = address.partition(":")
    if kind == "inet":
        port, at, host = rest.partition("@")
        return f"inet:{host}:{port}" if at else address
    path = rest or kind
    return f"unix:{os.path.relpath(path, queue_directory)}" if path.startswith("/") else f"unix:{path}"


def table(entries: Mapping[str, str]) -> str:
    """A texthash table."""
    return "".join(f"{key}\t{value}\n" for key, value in entries.items())
