"""Which certificates end when: those that are configured, and those that peers show. 30 days before it is said.

    files of server.tls and mqtt.NAME.tls  -\
                                            +-> `Certificates.look` -> one entry for each, for the status
    what a connection was accepted by      -/

Nothing is decided by it: whether a connection is made is OpenSSL's business (`tls`).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ds_gateway.logs import event, logger
from ds_gateway.plain_files import open_plain
from ds_gateway.x509 import Certificate, from_pem, parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ds_gateway.config.models import Settings

_log = logger("certificates")

WARNING_DAYS: Final = 30
_DAY_SECONDS: Final = 86400.0
MAX_FILE_BYTES: Final = 1024 * 1024
"""A file with all authorities of the world has a quarter of it."""
_STAMP = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a certificate is to be found."""

    name: str
    """The key in the configuration, or for what a peer shows that of the peer."""
    path: str = ""
    url: str = ""
    is_authority: bool = False
    """Of a file with several authorities the one that ends last counts: any of them may be in use."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One certificate, as it was last seen."""

    place: Place
    certificate: Certificate | None
    trouble: str = ""
    """Why it could not be read."""

    def document(self, now: datetime, *, is_synchronised: bool) -> dict[str, Any]:
        """For the status. While the clock is not synchronised nobody knows how long it is valid still."""
        where = {"url": self.place.url} if self.place.url else {"path": self.place.path}
        if self.certificate is None:
            gone = {"subject": "", "not_before": None, "not_after": None, "days_left": None}
            return {"name": self.place.name, **where, **gone, "problem": self.trouble}
        left = (self.certificate.not_after - now).total_seconds() / _DAY_SECONDS
        return {
            "name": self.place.name,
            **where,
            "subject": self.certificate.subject,
            "not_before": _text(self.certificate.not_before),
            "not_after": _text(self.certificate.not_after),
            "days_left": int(left // 1) if is_synchronised else None,
            "problem": _problem(self.certificate, now) if is_synchronised else "",
        }


def _problem(certificate: Certificate, now: datetime) -> str:
    until = _text(certificate.not_after)
    if now >= certificate.not_after:
        return f"has expired at {until}: renew it"
    if now < certificate.not_before:
        return f"is not valid before {_text(certificate.not_before)}"
    days = (certificate.not_after - now).total_seconds() / _DAY_SECONDS
    return f"expires in {int(days)} days, at {until}: renew it" if days < WARNING_DAYS else ""


def _text(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")


def places(settings: Settings) -> list[Place]:
    """The files that the configuration names."""
    found: list[Place] = []
    peers = [("server", settings.server.tls)]
    peers += [(f"mqtt.{name}", broker.tls) for name, broker in settings.mqtt.items()]
    for name, tls in peers:
        if tls.ca is not None:
            found.append(Place(f"{name}.tls.ca", path=tls.ca, is_authority=True))
        if tls.cert is not None:
            found.append(Place(f"{name}.tls.cert", path=tls.cert))
    return found


def read(place: Place) -> Entry:
    """Read a file. Whatever is in it, this tells and does not raise."""
    try:
        with open_plain(place.path) as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            return Entry(
                place, None, "is larger than 1 MiB: no more of it is read here, so nobody knows when it ends"
            )
        found = from_pem(content)
    except OSError as error:
        return Entry(place, None, f"cannot be read: {error.strerror}")
    except ValueError as error:
        return Entry(place, None, f"cannot be understood: {error}")
    if not found:
        return Entry(place, None, "has no certificate in PEM form")
    if place.is_authority:
        return Entry(place, max(found, key=lambda each: each.not_after))
    return Entry(place, min(found, key=lambda each: each.not_after))


class Certificates:
    """Knows them all. `look` reads files, so in a thread; `shown` in any; everything else on the event loop."""

    def __init__(self, files: Iterable[Place] = ()) -> None:
        self._files = tuple(files)
        self._read: dict[str, tuple[_STAMP | None, Entry]] = {}
        self._lock = threading.Lock()
        self._shown: dict[str, Entry] = {}
        self._told: dict[str, str] = {}

    def shown(self, name: str, url: str, chain: Sequence[bytes]) -> None:
        """A peer was accepted by these (DER). The one that ends first counts."""
        try:
            first = min(map(parse, chain), key=lambda each: each.not_after, default=None)
        except ValueError:  # OpenSSL has accepted it, so this is about our reading, not about the peer
            return
        if first is not None:
            with self._lock:
                self._shown[name] = Entry(Place(name, url=url), first)

    def look(self) -> None:
        """Read the files that are not as they were. For one thread at a time."""
        found = dict(self._read)
        for place in self._files:
            stamp, before = _stamp(place.path), found.get(place.name)
            if before is None or stamp is None or before[0] != stamp:
                found[place.name] = (stamp, read(place))
        self._read = found  # in one step: the event loop may be going through the one before

    def document(self, *, is_synchronised: bool, now: datetime | None = None) -> list[dict[str, Any]]:
        """For the status: every one of them, as the clock stands now."""
        now = now or datetime.now(UTC)
        with self._lock:
            shown = [entry for _, entry in sorted(self._shown.items())]
        entries = [entry for _, entry in self._read.values()] + shown
        return [entry.document(now, is_synchronised=is_synchronised) for entry in entries]

    def tell(self, document: Iterable[Mapping[str, Any]]) -> None:
        """Log what is wrong with them: once, and again when it is something else, as one day less."""
        told = {each["name"]: str(each["problem"]) for each in document}
        for each in document:
            problem = each["problem"]
            if problem and self._told.get(each["name"]) != problem:
                where = each.get("path") or each.get("url")
                event(_log, "warning", "certificate.problem", name=each["name"], where=where, problem=problem)
        self._told = told


def _stamp(path: str) -> _STAMP | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
