# SPDX-License-Identifier: GPL-3.0-or-later
"""The kinds of value an administrator writes: durations, paths, endpoints, sockets, URLs, domains.

Each takes what YAML gives and returns the typed value; each refusal is a ValueError in the administrator's words.
Relative paths count from the configuration file; its directory comes in as pydantic's validation context.
"""

import ipaddress
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, GetJsonSchemaHandler, ValidationInfo, WithJsonSchema

from acme_milter.protocol.mailbox import InvalidMailbox, Mailbox, canonical_domain

_DURATION_TEXT = "^[0-9]{1,9}(ms|s|m|h|d|w|y)$"
_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d|w|y)\Z")
_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
    "y": timedelta(days=365),
}
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*\Z")
_INET = re.compile(r"(inet6?):([0-9]{1,5})@(\S+)\Z")


MAX_SOCKET_PATH = 107  # unix(7): sun_path without its final NUL


class Endpoint(NamedTuple):
    """An IP address and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def shown(value: object) -> str:
    """A value as it may stand in a message: quoted, escaped, short."""
    text = repr(value)
    return text if len(text) <= 80 else text[:76] + "...'"


def _duration(value: object) -> timedelta:
    match = _DURATION.match(value) if isinstance(value, str) else None
    if value == 0 and not isinstance(value, bool):
        return timedelta(0)
    if match is None:
        raise ValueError(f"must be a duration such as 30s, 10m, 24h or 30d (not {shown(value)})")
    try:
        return int(match[1]) * _UNITS[match[2]]
    except OverflowError:
        raise ValueError(f"must be a duration of reasonable length (not {shown(value)})") from None


def _lasting(value: timedelta) -> timedelta:
    if not value:
        raise ValueError("must be longer than 0s")
    return value


def _share(value: object) -> float:
    """A part of a whole, as 0.67 or as 67%."""
    text = str(value) if not isinstance(value, bool) else ""
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ValueError(f"must be a share such as 0.67 or 67% (not {shown(value)})")
    return number


def local_path(value: object, info: ValidationInfo) -> Path:
    """A path as written; a relative one counts from the configuration file."""
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError("must be the path of a file")
    base = info.context["directory"] if info.context else Path.cwd()
    return Path(base) / value


def _socket_path(value: Path) -> Path:
    if len(str(value).encode()) > MAX_SOCKET_PATH:
        raise ValueError(f"is a longer path than a unix socket can have ({MAX_SOCKET_PATH} bytes)")
    return value


def _endpoint(value: object) -> Endpoint:
    text = value if isinstance(value, str) else ""
    host, port = text, "53"
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") if rest else port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        address = str(ipaddress.ip_address(host))
    except ValueError:
        raise ValueError(f"must be an IP address with or without :port (not {shown(value)})") from None
    return Endpoint(address, port_number(port))


def port_number(text: str) -> int:
    """A TCP or UDP port from its digits."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise ValueError(f"must have a port between 1 and 65535 (not {shown(text)})")
    return int(text)


def _milter_socket(value: object, info: ValidationInfo) -> str:
    """The three spellings of milter sockets that mail administrators know, as libmilter takes them."""
    text = value if isinstance(value, str) else ""
    kind, colon, rest = text.partition(":")
    if text.startswith("/"):
        kind, colon, rest = "unix", ":", text
    if kind in {"unix", "local"} and colon and rest:
        return f"unix:{_socket_path(local_path(rest, info))}"
    match = _INET.match(text)
    if match is None:
        raise ValueError(f"must be unix:/path, local:/path, inet:port@host or inet6:port@host (not {shown(value)})")
    return f"{match[1]}:{port_number(match[2])}@{_host(match[3].strip('[]'))}"


def _host(value: object) -> str:
    if isinstance(value, str):
        try:
            return str(ipaddress.ip_address(value))
        except ValueError:
            if _HOST.match(value) and not value.replace(".", "").isdigit():
                return value
    raise ValueError(f"must be a host name or an IP address (not {shown(value)})")


def _cpu(value: object) -> int | str | None:
    if value is None:
        return None
    if value == "auto":
        return "auto"
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 4096:
        return value
    raise ValueError(f"must be auto, null or the number of a CPU (not {shown(value)})")


def _socket_mode(value: object) -> int:
    """Octal text; a bare 660 would be decimal to YAML and octal to everyone who reads it."""
    if isinstance(value, str) and re.match(r"(0o?)?[0-7]{3}\Z", value):
        return int(value.removeprefix("0o"), 8)
    if isinstance(value, int) and not isinstance(value, bool) and re.match(r"[0-7]{3}\Z", str(value)):
        return int(str(value), 8)
    raise ValueError(f"must be permission bits such as 0660 (not {shown(value)})")


def _https_url(value: object) -> str:
    """RFC 8555 §6.1: HTTPS only."""
    text = value if isinstance(value, str) else ""
    try:
        url = urlsplit(text)
        port_fits = url.port is None or url.port > 0
    except ValueError:
        raise ValueError("must be a valid URL") from None
    if url.scheme == "http":
        raise ValueError("must begin with https:// (RFC 8555 section 6.1 forbids plain http)")
    if url.scheme != "https" or not url.hostname or not port_fits or not text.isascii():
        raise ValueError("must be an https:// URL")
    if url.username is not None or url.password is not None:
        raise ValueError("must not hold a user name or a password")
    if url.fragment or re.search(r"[\x00-\x20\x7f]", text):
        raise ValueError("must be an https:// URL without blanks and without #")
    return text


def _store_url(value: object, info: ValidationInfo) -> str:
    if isinstance(value, str):
        scheme, separator, rest = value.partition("://")
        if separator and scheme == "sqlite":
            if not rest.startswith("/") or rest in {"/", "/:memory:"}:
                raise ValueError("must name a file: sqlite:////absolute/path or sqlite:///relative/path")
            return f"sqlite:///{local_path(rest.removeprefix('/'), info)}"
        if separator and scheme in {"postgresql", "postgresql+psycopg"} and rest:
            return value
    # The value may hold a password, so it is not quoted.
    raise ValueError("must begin with sqlite:/// or postgresql://")


def _domain(value: object) -> str:
    try:
        return canonical_domain(value if isinstance(value, str) else "")
    except InvalidMailbox as problem:
        raise ValueError(f"must be a mail domain (not {shown(value)}): {problem}") from None


def _contact(value: object) -> str:
    """RFC 8555 §7.3: a mailto URL without header fields and with one address."""
    text = value if isinstance(value, str) else ""
    try:
        return f"mailto:{Mailbox.parse(text.removeprefix('mailto:'))}"
    except InvalidMailbox as problem:
        raise ValueError(f"must be a mail address (not {shown(value)}): {problem}") from None


def _as_tuple(value: Any) -> Any:
    """YAML lists become tuples, so that a configuration cannot change under its readers; null is an empty list."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else value


def _as_names(value: Any) -> Any:
    """As `_as_tuple`, and a single name may stand without brackets."""
    return (value,) if isinstance(value, str) else _as_tuple(value)


def _selector(value: object) -> str:
    """RFC 6376 §3.1: a selector is one or more DNS labels."""
    if isinstance(value, str) and len(value) <= 200 and _HOST.match(value.replace("_", "-")):
        return value
    raise ValueError(f"must be a DKIM selector (not {shown(value)})")


def _schema(kind: str | list[str], description: str, **more: Any) -> WithJsonSchema:
    """What an editor is told of a value: pydantic sees only what it becomes."""
    return WithJsonSchema({"type": kind, "description": description, **more})


class _OneToo:
    """Tells an editor that a list of one may stand without brackets."""

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        several = handler(core)
        return {"anyOf": [several.get("items", {}), several]}


_DURATION_SCHEMA = _schema(["string", "integer"], "A duration: 30s, 10m, 24h, 30d.", pattern=_DURATION_TEXT, maximum=0)
_PATH_SCHEMA = _schema("string", "A path; a relative one counts from the configuration file.", minLength=1)

Duration = Annotated[timedelta, BeforeValidator(_duration), _DURATION_SCHEMA]
LastingDuration = Annotated[timedelta, BeforeValidator(_duration), AfterValidator(_lasting), _DURATION_SCHEMA]
Share = Annotated[float, BeforeValidator(_share), _schema(["number", "string"], "A share: 0.67 or 67%.")]
FilePath = Annotated[Path, BeforeValidator(local_path), _PATH_SCHEMA]
SocketPath = Annotated[Path, BeforeValidator(local_path), AfterValidator(_socket_path), _PATH_SCHEMA]
Nameserver = Annotated[Endpoint, BeforeValidator(_endpoint), _schema("string", "An IP address with or without :port.")]
MilterSocket = Annotated[
    str, BeforeValidator(_milter_socket), _schema("string", "unix:/path, inet:port@host or inet6:port@host.")
]
Host = Annotated[str, BeforeValidator(_host), _schema("string", "A host name or an IP address.")]
Cpu = Annotated[
    int | Literal["auto"] | None,
    BeforeValidator(_cpu),
    _schema(["integer", "string", "null"], "auto, null or the number of a CPU.", minimum=0, pattern="^auto$"),
]
SocketMode = Annotated[
    int, BeforeValidator(_socket_mode), _schema(["string", "integer"], "Permission bits such as 0660, in octal.")
]
HttpsUrl = Annotated[str, BeforeValidator(_https_url), _schema("string", "An https:// URL.", pattern="^https://")]
StoreUrl = Annotated[
    str, BeforeValidator(_store_url), _schema("string", "sqlite:////absolute/path or postgresql://user@host/name.")
]
DomainName = Annotated[str, BeforeValidator(_domain), _schema("string", "A mail domain.")]
Selector = Annotated[str, BeforeValidator(_selector), _schema("string", "A DKIM selector.")]
Contact = Annotated[str, BeforeValidator(_contact), _schema("string", "A mail address.")]
T = TypeVar("T")
Several = Annotated[tuple[T, ...], BeforeValidator(_as_tuple)]
OneOrSeveral = Annotated[tuple[T, ...], BeforeValidator(_as_names), _OneToo()]
