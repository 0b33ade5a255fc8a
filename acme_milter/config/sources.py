# SPDX-License-Identifier: GPL-3.0-or-later
"""Where mailboxes come from besides the lists: every kind of source below `sources`, told apart by its `type`.

These say where to look and how to log in; the looking is done in `acme_milter.mailboxes`.
"""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationInfo, model_validator

from acme_milter.config.database_url import has_password
from acme_milter.config.secret import Secret
from acme_milter.config.section import Section
from acme_milter.config.values import FilePath, LastingDuration, Several, local_path

LIST = "list"
"""The name of the source that the configuration itself is; no other may have it."""

TABLE_PRESETS = ("postfixadmin", "iredmail", "modoboa", "ispconfig")
TablePreset = Literal["postfixadmin", "iredmail", "modoboa", "ispconfig"]

_DIALECT = re.compile(r"[a-z][a-z0-9]*(\+[a-z][a-z0-9_]*)?\Z")
_LDAP_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "openldap": {},
    "active-directory": {
        # The bit 2 of userAccountControl is a disabled account; 1.2.840.113556.1.4.803 is "has these bits".
        "filter": "(&(objectClass=user)(mail=*)(!(userAccountControl:1.2.840.113556.1.4.803:=2)))",
        "map": {"name": "displayName", "id": "objectGUID", "aliases": "proxyAddresses"},
    },
}


def _sql_url(value: object, info: ValidationInfo) -> str:
    """SQLAlchemy's form. What is wrong with one is said without quoting it: it may hold a password."""
    scheme, separator, rest = value.partition("://") if isinstance(value, str) else ("", "", "")
    if not separator or not _DIALECT.match(scheme) or not rest:
        raise ValueError("must be a database URL such as postgresql://reader@db.example.org/postfix, or {file: PATH}")
    if scheme.partition("+")[0] == "sqlite":
        if not rest.startswith("/") or rest in {"/", "/:memory:"}:
            raise ValueError("must name a file: sqlite:////absolute/path or sqlite:///relative/path")
        return f"{scheme}:///{local_path(rest.removeprefix('/'), info)}"
    try:
        urlsplit(f"x://{rest}").port  # noqa: B018 -- a property that raises
    except ValueError:
        raise ValueError("must be a valid database URL") from None
    return f"{scheme}://{rest}"


def _url_kind(value: object) -> str:
    return "url-secret" if isinstance(value, dict | Secret) else "url-text"


SqlUrl = Annotated[
    Annotated[str, BeforeValidator(_sql_url), Tag("url-text")] | Annotated[Secret, Tag("url-secret")],
    Discriminator(_url_kind),
]
"""A database URL, or where one is kept because it holds a password."""


def _text(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise ValueError("must be one line of text")
    return value


Text = Annotated[str, AfterValidator(_text), Field(min_length=1)]


LONGEST_READING = timedelta(hours=1)


def _worth_waiting_for(timeout: timedelta) -> timedelta:
    # While it is read nobody of that source joins or leaves, and that it does not answer is told only afterwards.
    if timeout > LONGEST_READING:
        raise ValueError("must be 1h at most: meanwhile nobody joins or leaves, and nobody is told why")
    return timeout


class SourceCommon(Section):
    """What every source has: how often the worker reads it, and how long one reading may take."""

    every: LastingDuration = timedelta(hours=1)
    timeout: Annotated[LastingDuration, AfterValidator(_worth_waiting_for)] = timedelta(seconds=60)

    @property
    def has_password(self) -> bool:
        """True when a password stands in the configuration itself."""
        return False


class _WithUrl(SourceCommon):
    url: SqlUrl | None = Field(default=None, repr=False)

    @property
    def has_password(self) -> bool:
        """True when the URL stands in the configuration and carries one."""
        return isinstance(self.url, str) and has_password(self.url)

    def url_text(self) -> str | None:
        """The URL, which is not for logs. Raises SecretUnavailable when it is kept somewhere and cannot be read."""
        return self.url.read() if isinstance(self.url, Secret) else self.url


class PostfixSource(_WithUrl):
    """Postfix's own tables, found with postconf unless `tables` (TYPE:PATH) names them.

    `sql_preset` and `url` serve the tables that Postfix cannot list because they are kept in a database.
    """

    type: Literal["postfix"]
    config_directory: FilePath | None = None
    tables: Several[Text] = ()
    sql_preset: TablePreset | None = None

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if (self.sql_preset is None) != (self.url is None):
            raise ValueError("sql_preset and url belong together: which tables, and in which database")
        for table in self.tables:
            if not re.match(r"[a-z]+:\S", table):
                raise ValueError("tables are written TYPE:PATH, for example hash:/etc/postfix/virtual")
        return self


class DovecotSource(SourceCommon):
    """Dovecot's users, as `doveadm user MASK` lists them."""

    type: Literal["dovecot"]
    config: FilePath | None = None
    mask: Text = "*"


class SqlSource(_WithUrl):
    """A database: the tables of a known product, or a query of your own (address, id, name, groups, active)."""

    type: Literal["sql"]
    preset: TablePreset | None = None
    query: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.url is None:
            raise ValueError("url is missing: postgresql://reader@db.example.org/postfix, or {file: PATH}")
        if (self.preset is None) == (self.query is None):
            raise ValueError(f"must have either preset ({', '.join(TABLE_PRESETS)}) or query")
        return self


class LdapBind(Section):
    """Who asks the directory."""

    dn: Text
    password: Secret


class LdapMap(Section):
    """The attributes that hold what is wanted; null where the directory has none.

    `id` is what stays the same when a person is renamed and is never given to another one.
    """

    address: Text = "mail"
    aliases: Text | None = None
    name: Text | None = "cn"
    id: Text | None = "entryUUID"
    groups: Text | None = "memberOf"


def ldap_uri(value: object) -> str:
    """A directory's URI: ldaps, ldap or ldapi and a host."""
    text = value if isinstance(value, str) else ""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in {"ldap", "ldaps", "ldapi"} or re.search(r"[\x00-\x20\x7f?@#]", rest):
        raise ValueError("must begin with ldaps://, ldap:// or ldapi://, and hold no user name and no blank")
    if scheme != "ldapi" and not rest.strip("/"):
        raise ValueError("must name the directory's host, such as ldaps://dc1.example.org")
    return text


class LdapSource(SourceCommon):
    """A directory: OpenLDAP, Active Directory or another. A preset gives values for `filter` and `map`."""

    type: Literal["ldap"]
    uri: Annotated[str, BeforeValidator(ldap_uri)]
    preset: Literal["openldap", "active-directory"] | None = None
    bind: LdapBind | None = None
    base: Text
    filter: Text = "(mail=*)"
    scope: Literal["sub", "one"] = "sub"
    map: LdapMap = LdapMap()
    page_size: int = Field(default=500, ge=1, le=10_000)
    ca_bundle: FilePath | None = None
    starttls: bool = False

    @model_validator(mode="before")
    @classmethod
    def _preset_under(cls, value: Any) -> Any:
        preset = _LDAP_PRESETS.get(value["preset"]) if isinstance(value, dict) and _is_text(value, "preset") else None
        if preset is None:
            return value
        own = value.get("map")
        attributes = {**preset.get("map", {}), **own} if isinstance(own, dict) else preset.get("map", {})
        laid = {**preset, **value}
        return {**laid, "map": attributes} if own is None or isinstance(own, dict) else laid

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.starttls and not self.uri.startswith("ldap://"):
            raise ValueError("starttls is for ldap:// only")
        if self.filter.count("(") != self.filter.count(")") or not self.filter.startswith("("):
            raise ValueError("filter must be an LDAP filter with its parentheses, such as (mail=*)")
        return self


def _is_text(value: Mapping[str, object], key: str) -> bool:
    return isinstance(value.get(key), str)


class CsvSource(SourceCommon):
    """A file with a line of column names (address, id, name, groups, start, end) and a line for each mailbox."""

    type: Literal["csv"]
    path: FilePath
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","


class CommandSource(SourceCommon):
    """A program that prints a JSON object a line; it is started without a shell."""

    type: Literal["command"]
    argv: Annotated[Several[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


SOURCE_TYPES: Mapping[str, type[SourceCommon]] = {
    "postfix": PostfixSource,
    "dovecot": DovecotSource,
    "sql": SqlSource,
    "ldap": LdapSource,
    "csv": CsvSource,
    "command": CommandSource,
}

SourceSection = Annotated[
    PostfixSource | DovecotSource | SqlSource | LdapSource | CsvSource | CommandSource, Field(discriminator="type")
]
