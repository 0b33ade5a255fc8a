# SPDX-License-Identifier: GPL-3.0-or-later
"""A configuration file into a Config, or every fault it has, each with its line.

Each part is read by itself and the cross-checks work on what was written, so one fault hides no other.
"""

import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from acme_milter.config import crosscheck, named_files
from acme_milter.config.aliases import listed_members
from acme_milter.config.config_files import add_domain_files, read_text
from acme_milter.config.document import DocumentError, Node, Place, locate, read_document
from acme_milter.config.fault import ConfigFaults, Fault
from acme_milter.config.layering import Layers
from acme_milter.config.preset import DEFAULT, laid_under, preset_names, read_preset
from acme_milter.config.schema import (
    Authority,
    Config,
    Defaults,
    DnsSection,
    Domain,
    KeysSection,
    MilterSection,
    Store,
    WorkerSection,
    with_staging,
)
from acme_milter.config.section import Section
from acme_milter.config.selection import selection_of
from acme_milter.config.sources import LIST, SOURCE_TYPES, SourceCommon
from acme_milter.config.values import shown
from acme_milter.config.wording import message_for, secret_at, suggestion, unknown_key

__all__ = ["ConfigFaults", "Fault", "load", "load_text"]

TOP_KEYS = (
    "version",
    "store",
    "milter",
    "worker",
    "keys",
    "dns",
    "authorities",
    "sources",
    "defaults",
    "domains",
)

S = TypeVar("S", bound=Section)


def load(path: Path, *, files: bool = False, certificates: bool = False) -> Config:
    """Read the configuration at `path` and in `domains.d` beside it; raises ConfigFaults with every fault.

    A file that group or others can write is refused: whoever edits it decides which mail disappears. With `files`
    the files it names are looked at too, as far as the caller may (secrets readable by others are faults); with
    `certificates` those alone that hold some, by the one who needs them.
    """
    return load_with_document(path, files=files, certificates=certificates)[0]


def load_with_document(path: Path, *, files: bool = False, certificates: bool = False) -> tuple[Config, Node]:
    """As `load`, and what was written, in which each value's file and line can be found (`document.locate`)."""
    reading = _Reading(path)
    found = read_text(path, reading.complain)
    if found is None:
        raise ConfigFaults(reading.faults)
    text, mode = found
    reading.world_readable = bool(mode & stat.S_IROTH)
    top = reading.document(text)
    add_domain_files(top, path, reading.complain)
    looks = named_files.files if files else named_files.certificates if certificates else None
    return reading.config(top, looks), top


def load_text(text: str, path: Path) -> Config:
    """As `load`, from a text and nothing else; `path` is what its faults name and what relative paths count from."""
    reading = _Reading(path)
    return reading.config(reading.document(text), None)


def sockets_in(path: Path) -> tuple[Path, Path]:
    """The worker's control socket and keyd's by a file that may have faults; the usual ones where it does not say."""
    reading = _Reading(path)
    found = read_text(path, reading.complain)
    try:
        top = reading.document("" if found is None else found[0])
    except ConfigFaults:
        top = reading.document("")
    worker = reading.section(top, ["worker"], WorkerSection) or WorkerSection()
    keys = reading.section(top, ["keys"], KeysSection) or KeysSection()
    return worker.control_socket, keys.socket


@dataclass
class _Reading:
    """One reading of one configuration; gathers faults as it goes."""

    path: Path
    faults: list[Fault] = field(default_factory=list)
    world_readable: bool = False
    raw: dict[str, dict[str, Any]] = field(default_factory=dict)  # authorities with their presets laid under

    def complain(self, place: Place, message: str) -> None:
        self.faults.append(Fault(place.line, place.key, message, place.file or self.path))

    def document(self, text: str) -> Node:
        """What is written in the main file; raises ConfigFaults when that is no map."""
        try:
            top = read_document(text, self.complain, self.path)
        except DocumentError as error:
            self.complain(Place(error.line), str(error))
            raise ConfigFaults(self.faults) from None
        if not isinstance(top.value, dict):
            self.complain(Place(top.line), f"must be a map with the keys {', '.join(TOP_KEYS)}")
            raise ConfigFaults(self.faults)
        return top

    def config(self, top: Node, look: named_files.Look | None) -> Config:
        """Each part in turn; a part with a fault counts as all defaults for the checks between the parts. ``look`` at
        the files that are named.
        """
        self._top_keys(top)
        store = self.section(top, ["store"], Store) or Store()
        milter = self.section(top, ["milter"], MilterSection) or MilterSection()
        worker = self.section(top, ["worker"], WorkerSection) or WorkerSection()
        keys = self.section(top, ["keys"], KeysSection) or KeysSection()
        dns = self.section(top, ["dns"], DnsSection) or DnsSection()
        defaults = self.section(top, ["defaults"], Defaults) or Defaults()
        authorities = _present((name, self._authority(top, name)) for name in self._names(top, "authorities"))
        sources = _present((name, self._source(top, name)) for name in self._names(top, "sources"))
        names = crosscheck.domain_names(top, self.complain)
        written = _present((name, self.section(top, ["domains", name], Domain)) for name in self._names(top, "domains"))
        mailboxes = crosscheck.mailboxes(top, names, self.complain)
        aliases = crosscheck.aliases(top, names, mailboxes, self.complain)
        crosscheck.single_mailboxes(top, names, self.complain)
        crosscheck.sources(top, self.complain)
        crosscheck.authorities(top, self.raw, self.complain)
        crosscheck.custody(top, defaults, written, self.complain)
        crosscheck.sockets(top, milter, worker, keys, self.complain)
        self._readable_passwords(top, store, sources)
        if look is not None:
            look(
                top,
                authorities=authorities,
                sources=sources,
                defaults=defaults,
                domains=written,
                complain=self.complain,
            )
        if self.faults:
            raise ConfigFaults(self.faults)
        domains = {names[name]: domain for name, domain in written.items()}
        layers = {name: Layers.of(defaults, domain, tuple(authorities)) for name, domain in domains.items()}
        return Config(
            path=self.path,
            version=1,
            store=store,
            milter=milter,
            worker=worker,
            keys=keys,
            dns=dns,
            authorities=with_staging(authorities),
            sources=sources,
            defaults=defaults,
            domains=domains,
            layers=layers,
            selections={name: selection_of(name, domain) for name, domain in domains.items()},
            members=listed_members(mailboxes, aliases, layers),
        )

    def _top_keys(self, top: Node) -> None:
        for key in top.mapping().keys() - set(TOP_KEYS):
            self.complain(locate(top, [key]), unknown_key(key, TOP_KEYS))
        self._version(top)

    def _readable_passwords(self, top: Node, store: Store, sources: Mapping[str, SourceCommon]) -> None:
        message = f"holds a password, and everyone can read this file; run: chmod o-r {self.path}"
        holders = [["store", "url"]] if store.has_password else []
        holders += [["sources", name, "url"] for name, source in sources.items() if source.has_password]
        for place in holders if self.world_readable else ():
            self.complain(locate(top, place), message)

    def _version(self, top: Node) -> None:
        node = top.mapping().get("version")
        if node is not None and (node.value != 1 or isinstance(node.value, bool)):
            self.complain(Place(node.line, "version"), f"must be 1 (not {shown(node.plain())})")

    def _source(self, top: Node, name: str) -> SourceCommon | None:
        place = ["sources", name]
        node = top.mapping()["sources"].mapping()[name]
        if not crosscheck.AUTHORITY_NAME.match(name) or name == LIST:
            self.complain(locate(top, place), f"a source's name is made of letters, digits, . _ and -, and not {LIST}")
        kinds = ", ".join(SOURCE_TYPES)
        written = node.mapping().get("type")
        if not isinstance(node.value, dict) or written is None:
            self.complain(locate(top, place), f"must be a map with the key type, one of {kinds}")
            return None
        kind = written.value
        model = SOURCE_TYPES.get(kind) if isinstance(kind, str) else None
        if model is None:
            near = suggestion(kind, SOURCE_TYPES) if isinstance(kind, str) else ""
            self.complain(locate(top, [*place, "type"]), f"must be one of {kinds}, not {shown(written.plain())}{near}")
            return None
        return self.section(top, place, model)

    def _names(self, top: Node, key: str) -> list[str]:
        """The keys of a map of named things; a fault when it is something else."""
        node = top.mapping().get(key)
        if node is None or node.value is None:
            return []
        if not isinstance(node.value, dict):
            self.complain(locate(top, [key]), "must be a map of names")
        return list(node.mapping())

    def _authority(self, top: Node, name: str) -> Authority | None:
        place = ["authorities", name]
        node = top.mapping()["authorities"].mapping()[name]
        own = node.plain()
        if not crosscheck.AUTHORITY_NAME.match(name):
            self.complain(locate(top, place), "an authority's name is made of letters, digits, . _ and -")
        if name == crosscheck.NO_AUTHORITY:
            self.complain(locate(top, place), f"{name} is what certificates from elsewhere are listed under; rename it")
        if not isinstance(own, dict | None):
            return self.section(top, place, Authority)
        own = own or {}
        wanted = own.get("preset", DEFAULT)
        if wanted not in preset_names():
            known = ", ".join(preset_names())
            near = suggestion(wanted, preset_names()) if isinstance(wanted, str) else ""
            self.complain(locate(top, [*place, "preset"]), f"unknown preset{near}; there are: {known}")
            # Whatever that preset would have given must not be reported as missing.
            own, wanted = {"directory": "https://unknown.invalid/"} | own | {"preset": DEFAULT}, DEFAULT
        preset = read_preset(wanted)
        if "directory" in own:
            preset.pop("staging", None)  # another service than the one that is known: its staging is not known
        self.raw[name] = laid_under(preset, own)
        return self.section(top, place, Authority, self.raw[name])

    def section(self, top: Node, place: list[str], model: type[S], plain: Any = None) -> S | None:
        """The part of the document at `place` as a model, None after complaining."""
        if plain is None:
            plain = top.at(*place).plain()
        context = {"directory": self.path.absolute().parent}
        try:
            return model.model_validate(plain, context=context)
        except ValidationError as invalid:
            for error in invalid.errors(include_url=False):
                # What stands where a source of a secret should, key or value, may be the secret itself.
                hidden = secret_at(model, error["loc"]) and error["type"] == "extra_forbidden"
                shown_place = error["loc"][:-1] if hidden else error["loc"]
                self.complain(locate(top, [*place, *shown_place]), message_for(error, model))
        return None


def _present(found: Iterable[tuple[str, S | None]]) -> dict[str, S]:
    return {name: part for name, part in found if part is not None}
