# SPDX-License-Identifier: GPL-3.0-or-later
"""Views by the control socket: the worker has the mailboxes in its memory, so its answer is there at once."""

import inspect
import json
from collections.abc import Callable, Mapping
from datetime import datetime

from acme_milter.config.schema import Config
from acme_milter.report.unanswerable import Unanswerable
from acme_milter.report.views import VIEWS, View
from acme_milter.store.database import Database

LARGEST = 900_000
"""Octets of a document that a frame (ipc.frames.MAX_FRAME) certainly holds."""


class ViewCall:
    """Answers the control socket's call ``view``."""

    def __init__(self, *, config: Callable[[], Config], database: Database, clock: Callable[[], datetime]) -> None:
        self._config = config
        self._database = database
        self._clock = clock

    def answer(self, header: dict[str, object]) -> dict[str, object]:
        """``{"view": document}``, or ``{"error": WORD}``: unknown-view, too-large, or unanswerable with ``text``.

        ``view`` names one of report.views.VIEWS, ``args`` are its arguments.
        """
        view = VIEWS.get(str(header.get("view")))
        args = header.get("args") or {}
        if view is None or not isinstance(args, dict) or not _takes(view, args):
            return {"error": "unknown-view"}
        try:
            with self._database.read() as connection:
                document = view(connection, self._config(), self._clock(), **args)
        except Unanswerable as error:
            return {"error": "unanswerable", "text": str(error)}
        if len(json.dumps(document, separators=(",", ":"))) > LARGEST:
            return {"error": "too-large"}
        return {"view": document}


def _takes(view: View, args: Mapping[str, object]) -> bool:
    """False for what a newer command asks of an older view."""
    try:
        inspect.signature(view).bind(None, None, None, **args)
    except TypeError:
        return False
    return True
