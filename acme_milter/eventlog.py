# SPDX-License-Identifier: GPL-3.0-or-later
"""One line per decision: queue id first, one event word from a closed list, then key=value.

`grep QUEUEID /var/log/mail.log` then shows Postfix's side and ours together. Nothing a stranger wrote into
a mail can break a line, start a second one or colour a terminal; nothing secret is ever formatted, because
exceptions are named by type and place, not by their text.
"""

import errno
import logging
import os
import re
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum
from pathlib import Path
from types import TracebackType
from typing import TextIO

LOGGER_NAME = "acme_milter"
MAX_VALUE = 500  # characters of one value; a CA's essay or a stranger's header must not fill the journal

_logger = logging.getLogger(LOGGER_NAME)
_PACKAGE = Path(__file__).resolve().parent
_ADDRESS_KEYS = frozenset({"address", "from", "mailbox", "mail_from", "rcpt", "reply_to", "sender", "to"})
_PLAIN = re.compile(r"[!#-;=?-\[\]-~][!#-\[\]-~]*\Z")  # no blank, quote or backslash; does not begin with < or >
_QUEUE_ID = re.compile(r"[0-9A-Za-z]{1,64}\Z")
_NOT_KEY = re.compile(r"[^0-9A-Za-z_.-]")
_SHORT_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t", '"': r"\"", "\\": r"\\"}
# sd-daemon(3): the number a line begins with becomes its priority in the journal.
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class Event(StrEnum):
    """The closed list of event words; scripts and alerts match on them, so a word once released stays."""

    ACCOUNT_DEACTIVATED = "account-deactivated"
    ACCOUNT_KEY_CHANGED = "account-key-changed"
    ACCOUNT_KEY_KEPT = "account-key-kept"
    ACCOUNT_READY = "account-ready"
    ACCOUNT_REFUSED = "account-refused"
    AUTHORITY_BUSY = "authority-busy"
    AUTHORITY_FAILING = "authority-failing"
    AUTHORITY_HEALED = "authority-healed"
    AUTHORITY_PAUSED = "authority-paused"
    AUTHORITY_RESUMED = "authority-resumed"
    AUTHORIZATION_ALREADY_VALID = "authorization-already-valid"
    BULK_BEGUN = "bulk-begun"
    BULK_CANCELLED = "bulk-cancelled"
    BULK_DONE = "bulk-done"
    BULK_PAUSED = "bulk-paused"
    BULK_RESUMED = "bulk-resumed"
    BULK_STOPPED = "bulk-stopped"
    CAA_UNCHECKED = "caa-unchecked"
    CERTIFICATE_EXPIRED = "certificate-expired"
    CERTIFICATE_EXPORTED = "certificate-exported"
    CERTIFICATE_IMPORTED = "certificate-imported"
    CERTIFICATE_ISSUED = "certificate-issued"
    CERTIFICATE_REFUSED = "certificate-refused"
    CERTIFICATE_REVOKED = "certificate-revoked"
    ALIAS_LEFT_OUT = "alias-left-out"
    CHAIN_NOT_OFFERED = "chain-not-offered"
    CHALLENGE_ACCEPTED = "challenge-accepted"
    CHALLENGE_DOUBT = "challenge-doubt"
    CHALLENGE_DUPLICATE = "challenge-duplicate"
    CHALLENGE_EXPIRED = "challenge-expired"
    CHALLENGE_LATE = "challenge-late"
    CHALLENGE_OBSERVED = "challenge-observed"
    CHALLENGE_REFUSED = "challenge-refused"
    CHALLENGE_UNSOLICITED = "challenge-unsolicited"
    CLOCK_JUMPED = "clock-jumped"
    CLOCK_MENDED = "clock-mended"
    CLOCK_SKEWED = "clock-skewed"
    CONFIG_FAULT = "config-fault"
    CONFIG_LOADED = "config-loaded"
    CONFIG_RELOAD_FAILED = "config-reload-failed"
    DELIVERY_ASKED = "delivery-asked"
    DELIVERY_BEGUN = "delivery-begun"
    DELIVERY_DONE = "delivery-done"
    DELIVERY_ENDED = "delivery-ended"
    DELIVERY_FAILED = "delivery-failed"
    DELIVERY_WITHDRAWN = "delivery-withdrawn"
    DKIM_CHILD_KILLED = "dkim-child-killed"
    ENROLLMENT_CANCELLED = "enrollment-cancelled"
    ENROLLMENT_FAILED = "enrollment-failed"
    ENROLLMENT_MOVED = "enrollment-moved"
    ENROLLMENT_OPENED = "enrollment-opened"
    ENROLLMENT_STEP = "enrollment-step"
    ENROLLMENT_STEP_FAILED = "enrollment-step-failed"
    HOLD_ASKED = "hold-asked"
    HOLD_RELEASED = "hold-released"
    INTERNAL_ERROR = "internal-error"
    INVARIANT_BROKEN = "invariant-broken"
    KEY_BROUGHT = "key-brought"
    KEY_DESTROYED = "key-destroyed"
    KEY_MADE = "key-made"
    KEYD_REFUSED = "keyd-refused"
    KEYD_UNREACHABLE = "keyd-unreachable"
    LIBRARY_MESSAGE = "library-message"
    MAILBOX_LEFT = "mailbox-left"
    MAILBOX_REASSIGNED = "mailbox-reassigned"
    MAILBOXES_LOADED = "mailboxes-loaded"
    MILTER_DEGRADED = "milter-degraded"
    MILTER_RECOVERED = "milter-recovered"
    ORDER_FAILED = "order-failed"
    ORDER_PLACED = "order-placed"
    ORDER_VALID = "order-valid"
    PASSPHRASE_SHOWN = "passphrase-shown"  # noqa: S105 -- a word of the log
    POSTED_WITHOUT_MAIL = "posted-without-mail"
    RENEWAL_ADVANCED = "renewal-advanced"
    RENEWAL_DUE = "renewal-due"
    REPLY_BOUNCED = "reply-bounced"
    REPLY_DEFERRED = "reply-deferred"
    REPLY_LEFT = "reply-left"
    REPLY_QUEUED = "reply-queued"
    REPLY_REFUSED = "reply-refused"
    REPLY_UNFOLLOWED = "reply-unfollowed"
    REVOCATION_ASKED = "revocation-asked"
    REVOCATION_FAILED = "revocation-failed"
    ROLE_DIED = "role-died"
    ROLE_READY = "role-ready"
    ROLE_STARTED = "role-started"
    ROLE_STOPPED = "role-stopped"
    SOURCE_FAILED = "source-failed"
    STORE_MIGRATED = "store-migrated"
    STORE_UNAVAILABLE = "store-unavailable"
    TOKEN_JOIN_ASSUMED = "token-join-assumed"  # noqa: S105 -- a word of the log
    WITHDRAWAL_ASKED = "withdrawal-asked"
    WITHDRAWAL_FAILED = "withdrawal-failed"
    WORKER_UNREACHABLE = "worker-unreachable"


def log_event(event: Event, *, queue_id: str | None = None, level: int = logging.INFO, **fields: object) -> None:
    """Log one event as one line, see `format_event`; `level` is one of logging's."""
    if _logger.isEnabledFor(level):
        _logger.log(level, "%s", format_event(event, queue_id, fields))


def log_exception(
    event: Event,
    exc: BaseException,
    *,
    queue_id: str | None = None,
    level: int = logging.ERROR,
    **fields: object,
) -> None:
    """Log that `exc` ended something: its type, the file:line of our innermost frame, errno if it has one.

    Its text is logged only if its class says `safe_text = True`: other people's exceptions quote what they
    were given, and that may be a token, a key or a mail. Locals are never looked at.
    """
    fields |= {"error": type(exc).__name__, "at": place_of(exc.__traceback__)}
    if isinstance(exc, OSError) and exc.errno is not None:
        fields["errno"] = errno.errorcode.get(exc.errno, exc.errno)
    if exc.__cause__ is not None:
        fields["cause"] = type(exc.__cause__).__name__
    if getattr(type(exc), "safe_text", False) is True:
        fields["detail"] = str(exc)
    log_event(event, queue_id=queue_id, level=level, **fields)


def format_event(event: Event, queue_id: str | None, fields: Mapping[str, object]) -> str:
    """The line without its program prefix; always one line of printable characters, whatever the values are.

    A trailing underscore of a key is dropped (`from_`); fields that are None are left out; a value in a field
    that holds addresses is written in <> when it has an @; booleans are 1 and 0, durations seconds, instants
    ISO 8601 in UTC.
    """
    words = [f"{_queue_id(queue_id)}: {event.value}"]
    for key, value in fields.items():
        if value is not None:
            name = _NOT_KEY.sub("_", key.removesuffix("_")) or "_"
            words.append(f"{name}={_value(name, value)}")
    return " ".join(words)


def configure_logging(role: str, *, stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Send every log record of this process to `stream` (standard error) as `acme-milter[role]: line`.

    May be called again (a role forked from another, a test): it replaces what it set up before. Records of
    libraries from WARNING up are passed on without their arguments, which may hold a header or an answer.
    """
    target = sys.stderr if stream is None else stream
    handler = _LineHandler(target)
    handler.setFormatter(_LineFormatter(role, journal=_is_journal(target)))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _LineHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    _logger.setLevel(level)


def log_uncaught_exceptions() -> None:
    """Make exceptions that nobody caught, in any thread of this process, one `internal-error` line each.

    The interpreter's own report would print the exception's text, which is not ours to trust.
    """

    def of_main(_kind: type[BaseException], exc: BaseException, _trace: TracebackType | None) -> None:
        log_exception(Event.INTERNAL_ERROR, exc)

    def of_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            name = args.thread.name if args.thread is not None else None
            log_exception(Event.INTERNAL_ERROR, args.exc_value, thread=name)

    sys.excepthook = of_main
    threading.excepthook = of_thread


class _LineHandler(logging.StreamHandler[TextIO]):
    """Writes a line with one write(); the lock of logging.Handler keeps threads apart."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's name
        """Say nothing when standard error is gone: logging's report would print the record's arguments."""


class _LineFormatter(logging.Formatter):
    def __init__(self, role: str, *, journal: bool) -> None:
        super().__init__()
        self._prefix = f"acme-milter[{_escape(role)}]: "
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        line = record.getMessage() if record.name == LOGGER_NAME else _foreign(record)
        priority = f"<{_PRIORITY.get(record.levelno, 6)}>" if self._journal else ""
        # Escaping again costs nothing on a clean line and holds even for a record not made by log_event.
        return priority + self._prefix + "".join(c if c.isprintable() else _escape(c) for c in line)


def _foreign(record: logging.LogRecord) -> str:
    """A library's record: who and where, and the message's template only if the data is apart from it."""
    fields: dict[str, object] = {
        "logger": record.name,
        "level": record.levelname.lower(),
        "at": f"{record.filename}:{record.lineno}",
        "template": record.msg if record.args and isinstance(record.msg, str) else None,
        "error": record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None,
    }
    return format_event(Event.LIBRARY_MESSAGE, None, fields)


def _is_journal(stream: TextIO) -> bool:
    """systemd.exec(5) $JOURNAL_STREAM: device:inode of the journal's socket.

    It is inherited, so a terminal inside a user service has it too: only the descriptor we write to decides.
    A stream without one takes the variable's word.
    """
    wanted = os.environ.get("JOURNAL_STREAM")
    if not wanted:
        return False
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return True
    return wanted == f"{status.st_dev}:{status.st_ino}"


def place_of(trace: TracebackType | None) -> str | None:
    """package-relative file:line of the innermost frame that is ours, else of the innermost frame."""
    place = None
    ours = False
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if path.is_relative_to(_PACKAGE):
            place, ours = f"{path.relative_to(_PACKAGE)}:{trace.tb_lineno}", True
        elif not ours:
            place = f"{path.name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _queue_id(queue_id: str | None) -> str:
    if not queue_id:
        return "-"
    return queue_id if _QUEUE_ID.match(queue_id) else _quoted(queue_id)


def _value(name: str, value: object) -> str:
    text = _text(value)
    if len(text) > MAX_VALUE:
        text = text[:MAX_VALUE] + "..."
    plain = _PLAIN.match(text) or (text and text.isprintable() and not re.search(r'[\s"\\]|^[<>]', text))
    if not plain:
        return _quoted(text)
    if name in _ADDRESS_KEYS and "@" in text and not re.search(r"[<>]", text):
        return f"<{text}>"
    return text


def _text(value: object) -> str:
    match value:
        case bool():
            return "1" if value else "0"
        case Enum():
            return str(value.value)
        case bytes():
            return value.decode("utf-8", "surrogateescape")
        case timedelta():
            return f"{value.total_seconds():g}s"
        case datetime():
            aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
            return aware.strftime("%Y-%m-%dT%H:%M:%SZ")
        case BaseException():
            return type(value).__name__  # its text may hold anything, see log_exception
        case _:
            return str(value)


def _quoted(text: str) -> str:
    return f'"{_escape(text)}"'


def _escape(text: str) -> str:
    return "".join(map(_escape_character, text))


def _escape_character(character: str) -> str:
    if character in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
