# SPDX-License-Identifier: GPL-3.0-or-later
"""The callbacks that libmilter calls. The only file that imports pymilter.

It uses pymilter's lower module, whose plain functions cost an ordinary mail clearly less than `Milter.Base` does.
Postfix is asked for as little as possible: recipients without waiting for an answer, one answer at DATA, and nothing
more for a mail without a managed recipient. Never an ACCEPT at RCPT, which Postfix takes for the whole message.
Nothing that goes wrong here may turn an ordinary mail away: every callback catches everything and lets the mail pass.
"""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol

import milter

from acme_milter.eventlog import Event, log_event, log_exception
from acme_milter.milter.intake_client import Answer, Disposition
from acme_milter.milter.session import Candidate, Envelope, Session, Step, client_of, fold_recipient

BACKLOG = 1024  # connections that may wait while every thread is busy
MTA_SECONDS = 7210  # longer than an SMTP session may idle (command_timeout apart), so that libmilter is not the first

_NO_NEED = milter.P_NOCONNECT | milter.P_NOHELO | milter.P_NOMAIL | milter.P_NOUNKNOWN
_NO_REPLY = milter.P_NR_RCPT | milter.P_NR_HDR
_WANTED = _NO_NEED | _NO_REPLY | milter.P_HDR_LEADSPC | milter.P_SKIP
_STEP_NAMES = {
    milter.P_HDR_LEADSPC: "header-leading-space",
    milter.P_SKIP: "skip",
    milter.P_NR_RCPT: "rcpt-without-reply",
    milter.P_NR_HDR: "header-without-reply",
}

ACCEPT = int(milter.ACCEPT)
CONTINUE = int(milter.CONTINUE)
DISCARD = int(milter.DISCARD)
NOREPLY = int(milter.NOREPLY)
SKIP = int(milter.SKIP)
TEMPFAIL = int(milter.TEMPFAIL)
ALL_OPTS = int(milter.ALL_OPTS)

run_libmilter = milter.main
LibmilterError = milter.error


class Index(Protocol):
    """What holds the managed addresses; None when nobody knows them now."""

    addresses: frozenset[str] | None


class Context(Protocol):
    """What we use of pymilter's connection object."""

    def getsymval(self, name: str, /) -> str | None:
        """An MTA macro."""

    def getpriv(self) -> "Connection | None":
        """The object that setpriv kept."""

    def setpriv(self, value: "Connection", /) -> None:
        """Keep an object for the connection's life."""

    def setreply(self, code: str, extended: str, text: str, /) -> None:
        """The text of a TEMPFAIL."""


class Connection(Session):
    """A session and what was negotiated for it. `broken` marks a message in which a callback of ours failed."""

    __slots__ = ("after_header", "after_rcpt", "broken", "may_skip")

    def __init__(self, steps: int) -> None:
        super().__init__(with_blank=bool(steps & milter.P_HDR_LEADSPC))
        self.after_rcpt = NOREPLY if steps & milter.P_NR_RCPT else CONTINUE
        self.after_header = NOREPLY if steps & milter.P_NR_HDR else CONTINUE
        self.may_skip = bool(steps & milter.P_SKIP)
        self.broken = False

    def clear(self) -> None:
        super().clear()
        self.broken = False


_P = ParamSpec("_P")


def _guarded(
    callback: Callable[Concatenate["Edge", Context, _P], int],
) -> Callable[Concatenate["Edge", Context, _P], int]:
    """Let no exception out: pymilter would answer it with a 451 of its own, whatever the MTA's default action is."""
    name = callback.__name__

    @wraps(callback)
    def guarded(edge: "Edge", ctx: Context, /, *args: _P.args, **kwargs: _P.kwargs) -> int:
        try:
            return callback(edge, ctx, *args, **kwargs)
        except Exception as exc:  # noqa: BLE001 - the process's edge, see above
            return _let_pass(ctx, name, exc)

    return guarded


class Edge:
    """Binds the decisions to libmilter. `index` is read and `decide` asked anew for every message."""

    def __init__(self, index: Index, decide: Callable[[Candidate], Answer]) -> None:
        self._index = index
        self._decide = decide
        self._missing_said = 0

    def register(self, socket: str) -> None:
        """Give libmilter the callbacks and open the socket (its spelling); raises LibmilterError."""
        milter.set_flags(0)  # we change nothing in a mail, and say so
        milter.set_exception_policy(milter.ACCEPT)
        milter.set_envrcpt_callback(self.envrcpt)
        milter.set_header_callback(self.header)
        milter.set_eoh_callback(self.eoh)
        milter.set_body_callback(self.body)
        milter.set_eom_callback(self.eom)
        milter.set_abort_callback(self.abort)
        milter.register("acme-milter", data=self.data, negotiate=self.negotiate)
        milter.setconn(socket)
        milter.setbacklog(BACKLOG)
        milter.settimeout(MTA_SECONDS)
        milter.opensocket(True)

    def negotiate(self, ctx: Context, options: list[int]) -> int:
        """Take what the MTA offers of what we want, and no right to change a mail."""
        try:
            steps = options[1] & _WANTED
            options[:] = [0, steps, 0, 0]
            if steps != _WANTED and self._missing_said != _WANTED & ~steps:
                self._missing_said = _WANTED & ~steps
                names = [name for bit, name in _STEP_NAMES.items() if bit & self._missing_said]
                log_event(Event.MILTER_DEGRADED, reason="mta-lacks", steps=",".join(names) or "skipped-events")
            ctx.setpriv(Connection(steps))
        except Exception as exc:  # noqa: BLE001 - as in _guarded; here libmilter's own defaults are the way on
            log_exception(Event.INTERNAL_ERROR, exc, callback="negotiate")
            return ALL_OPTS
        return CONTINUE

    @_guarded
    def envrcpt(self, ctx: Context, address: bytes, *_parameters: bytes) -> int:
        """Collect a recipient: {rcpt_addr} is folded and unquoted, the argument is as the client typed it."""
        connection = ctx.getpriv() or _late(ctx)
        recipient = ctx.getsymval("{rcpt_addr}") or address.decode("utf-8", "replace")
        connection.recipients.append(fold_recipient(recipient))
        return connection.after_rcpt

    @_guarded
    def data(self, ctx: Context) -> int:
        """All recipients are known: the one answer that ordinary mail waits for."""
        connection = ctx.getpriv() or _late(ctx)
        if not connection.broken:
            if connection.at_data(self._index.addresses) is Step.MORE:
                if connection.begin(_envelope(ctx)) is Step.MORE:
                    return CONTINUE
            else:
                connection.recipients.clear()  # an ordinary mail has touched nothing else
                return ACCEPT
        connection.clear()
        return ACCEPT

    @_guarded
    def header(self, ctx: Context, name: str, value: bytes) -> int:
        """Collect a header field as it came."""
        connection = ctx.getpriv() or _late(ctx)
        connection.header(name, value)
        return connection.after_header

    @_guarded
    def eoh(self, ctx: Context) -> int:
        """Ordinary mail of managed mailboxes ends here: no body is asked for."""
        connection = ctx.getpriv() or _late(ctx)
        if connection.broken or connection.at_end_of_headers() is Step.ACCEPT:
            connection.clear()
            return ACCEPT
        return CONTINUE

    @_guarded
    def body(self, ctx: Context, chunk: bytes) -> int:
        """Collect a candidate's body, as much of it as can matter."""
        connection = ctx.getpriv() or _late(ctx)
        wants_more = connection.body(chunk)
        return SKIP if not wants_more and connection.may_skip else CONTINUE

    @_guarded
    def eom(self, ctx: Context) -> int:
        """Ask the worker about a candidate and do what it says."""
        connection = ctx.getpriv() or _late(ctx)
        if connection.broken or connection.at_end_of_headers() is Step.ACCEPT:
            # An MTA that skips steps we count on: whatever it is, it is no candidate.
            connection.clear()
            return ACCEPT
        candidate = connection.candidate()
        connection.clear()
        match self._decide(candidate).disposition:
            case Disposition.DISCARD if len(candidate.recipients) == 1:
                return DISCARD
            case Disposition.DISCARD:
                # DISCARD takes the mail from every recipient; whoever asked for it, it must not be done.
                queue_id = candidate.envelope.queue_id
                log_event(Event.INVARIANT_BROKEN, queue_id=queue_id, reason="discard-for-several-recipients")
                return ACCEPT
            case Disposition.TEMPFAIL:
                ctx.setreply("451", "4.7.1", "acme-milter: try again later")
                return TEMPFAIL
            case _:
                return ACCEPT

    @_guarded
    def abort(self, ctx: Context) -> int:
        """The message was given up (RSET, a rejection, a lost client); the session may go on with another."""
        connection = ctx.getpriv()
        if connection is not None:
            connection.clear()
        return CONTINUE


def _late(ctx: Context) -> Connection:
    """The connection of an MTA that does not negotiate (milter protocol 2), or whose negotiation failed."""
    connection = Connection(0)
    ctx.setpriv(connection)
    return connection


def _let_pass(ctx: Context, callback: str, exc: Exception) -> int:
    """What a failed callback answers: nothing where no answer is expected, ACCEPT elsewhere."""
    log_exception(Event.INTERNAL_ERROR, exc, callback=callback)
    connection = ctx.getpriv()
    if connection is None:
        return ACCEPT
    if callback in {"envrcpt", "header"}:
        connection.broken = True  # the next answer lets the mail pass
        return connection.after_rcpt if callback == "envrcpt" else connection.after_header
    connection.recipients = []
    connection.broken = False
    return ACCEPT


def _envelope(ctx: Context) -> Envelope:
    """What Postfix's default macros say by DATA; a macro that an MTA does not send is empty."""
    name, address = client_of(ctx.getsymval("_") or "")
    return Envelope(
        queue_id=ctx.getsymval("i"),
        sender=ctx.getsymval("{mail_addr}") or "",
        client_name=name,
        client_address=address,
        daemon=ctx.getsymval("{daemon_name}") or "",
        authenticated=bool(ctx.getsymval("{auth_authen}") or ctx.getsymval("{auth_type}")),
    )
