# SPDX-License-Identifier: GPL-3.0-or-later
"""The CA as a process: listeners up, a `ready` line, and an orderly end on SIGTERM."""

import asyncio
import json
import logging
import os
import secrets
import signal
import sys
from dataclasses import replace
from pathlib import Path

import uvicorn

from acme_milter.testca.chaos import Chaos
from acme_milter.testca.clock import Clock
from acme_milter.testca.dkim_keys import open_dkim_keys
from acme_milter.testca.exchange import Desk
from acme_milter.testca.history import Happening, History
from acme_milter.testca.ledger import Ledger
from acme_milter.testca.names import NameServer
from acme_milter.testca.office import Nonces, Office, Options
from acme_milter.testca.outgoing import Attempt, Outgoing
from acme_milter.testca.pki import open_pki
from acme_milter.testca.postroom import Postroom
from acme_milter.testca.reception import Mx
from acme_milter.testca.reply_dkim import leave_times_to_us
from acme_milter.testca.web import OpenConnections, application, bind_tcp, https_server


def serve(options: Options) -> int:
    """Run the CA until SIGTERM or SIGINT. Returns the exit code: 0, or 1 when a listener cannot be opened."""
    # aiosmtpd logs every command, asyncio every broken handshake.
    for name in ("mail.log", "asyncio"):
        logging.getLogger(name).setLevel(logging.ERROR)
    leave_times_to_us()
    try:
        asyncio.run(_run(options))
    except OSError as error:
        print(f"testca: {error}", file=sys.stderr)
        return 1
    return 0


async def _run(options: Options) -> None:
    """Open all listeners, then announce them, then wait for the end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    https_socket = bind_tcp(options.listen)
    office = _open_office(options, https_socket.getsockname()[1])
    names = NameServer(office.dkim_keys.records(), lambda: office.chaos.word("DNS"))
    dns_transport, _ = await loop.create_datagram_endpoint(lambda: names, local_addr=options.dns_listen)
    mx = Mx(office)
    mx_port = await mx.start()
    postroom: Postroom | None = None

    def report(attempt: Attempt) -> None:
        assert postroom is not None
        loop.call_soon_threadsafe(postroom.attempted, attempt)

    outgoing = Outgoing(
        options.smtp_target, options.domain, report, threads=options.senders, first_pause=options.first_pause
    )
    postroom = Postroom(office, outgoing)
    connections = OpenConnections()
    server = https_server(application(Desk(office, postroom, connections), names.records), office.pki, connections)
    serving = asyncio.create_task(server.serve(sockets=[https_socket]))
    outgoing.start()
    try:
        await _started(server, serving)
        dns_port = int(dns_transport.get_extra_info("sockname")[1])
        _announce(office, mx_port, dns_port)
        await stop.wait()
    finally:
        office.history.stop()
        server.should_exit = True
        await mx.stop()
        dns_transport.close()
        await asyncio.gather(_ended(serving, connections), asyncio.to_thread(outgoing.stop))


def _open_office(options: Options, port: int) -> Office:
    host = options.listen[0]
    base_url = f"https://{f'[{host}]' if ':' in host else host}:{port}"
    clock = Clock()
    pki = open_pki(options.state_dir, [host, "localhost", "127.0.0.1"], clock())
    history = History(clock, most=options.events)
    chaos = Chaos(options.chaos, seed=options.seed, on_strike=lambda name: history.add(Happening.FAULT, knob=name))
    return Office(
        options=replace(options, listen=(host, port)),
        base_url=base_url,
        clock=clock,
        chaos=chaos,
        history=history,
        ledger=Ledger(),
        nonces=Nonces(secrets.token_bytes),
        pki=pki,
        dkim_keys=open_dkim_keys(options.state_dir, options.domain, options.dkim_algorithm),
    )


async def _started(server: uvicorn.Server, serving: asyncio.Task[None]) -> None:
    while not server.started:
        if serving.done():
            await serving
            raise OSError("the HTTPS server did not start")
        await asyncio.sleep(0.01)


async def _ended(serving: asyncio.Task[None], connections: OpenConnections) -> None:
    """Let answers under way go out, then cut what is still open."""
    while not serving.done():
        await asyncio.wait([serving], timeout=0.3)
        connections.cut_all()
    await serving


def _announce(office: Office, mx_port: int, dns_port: int) -> None:
    document = {
        "directory": f"{office.base_url}/directory",
        "ca_bundle": str(office.pki.tls_bundle.absolute()),
        "trust_roots": str(office.pki.trust_roots.absolute()),
        "control": f"{office.base_url}/control",
        "domain": office.options.domain,
        "mx_port": mx_port,
        "dns_port": dns_port,
        "pid": os.getpid(),
    }
    if office.options.directory_out is not None:
        _write_atomically(office.options.directory_out, json.dumps(document, indent=1) + "\n")
    print(f"ready {document['directory']}", flush=True)


def _write_atomically(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
