# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker role as a process: signals in, the worker's parts started, reloaded and stopped."""

import os
import queue
import signal
import threading
from pathlib import Path

from acme_milter.config.schema import Config
from acme_milter.eventlog import Event, log_event, log_exception
from acme_milter.program import end_programs
from acme_milter.worker.service import StoppedEarly, Worker


def run_worker(config: Config) -> None:
    """Run the role until SIGTERM or SIGINT; SIGHUP reads the configuration again. Raises as ``Worker.start`` does."""
    stop = threading.Event()
    heard: queue.SimpleQueue[int] = queue.SimpleQueue()  # may be put into from a signal's handler

    def hear(number: int, _: object) -> None:
        if number != signal.SIGHUP:
            stop.set()
        heard.put(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, hear)
    os.umask(0o077)
    for path in (config.worker.intake_socket, config.worker.control_socket):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    worker = Worker(config)
    log_event(Event.ROLE_STARTED, role="worker", pid=os.getpid())
    try:
        worker.start(stop)
        log_event(Event.ROLE_READY, role="worker")
        while not stop.is_set():
            if heard.get() == signal.SIGHUP:
                _reload(worker)
    except StoppedEarly:
        pass
    finally:
        worker.stop()
        end_programs()  # a source of mailboxes may still be read
    log_event(Event.ROLE_STOPPED, role="worker")


def _reload(worker: Worker) -> None:
    try:
        worker.reload()
    except Exception as error:  # noqa: BLE001 -- the role goes on with what it has, whatever is wrong with a file
        log_exception(Event.CONFIG_RELOAD_FAILED, error)
