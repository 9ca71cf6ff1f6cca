"""Which device and which stream a topic belongs to; how many of them there may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from ds_gateway.decoding import SettingsMistakeError, build_decoder, build_timed_decoder, check_settings
from ds_gateway.mapping.errors import MappingError, RefusedNameError
from ds_gateway.mapping.streams import StreamTemplate, check_device_name
from ds_gateway.mapping.templates import Template
from ds_gateway.mapping.topics import TopicPattern, covers, overlap

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ds_gateway.config.decoding import FieldSettings, ReportSettings
    from ds_gateway.config.models import LimitSettings
    from ds_gateway.config.mqtt import DeviceSettings
    from ds_gateway.decoding import TimedDecoder
    from ds_gateway.decoding.fitting import ReadingSettings
    from ds_gateway.decoding.limits import Decoder

_MIN_CACHED_TOPICS: Final = 4096
_MAX_CACHED_TOPIC_CHARACTERS: Final = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """How payloads are read, as the settings of a device or of a port say."""

    decode: Decoder
    decode_timed: TimedDecoder | None
    """Instead of ``decode`` where the payload gives the time."""
    report: ReportSettings | None
    fields: Mapping[str, str | None]
    """Unit of each field that the configuration lists; empty where every decoded field passes."""

    @classmethod
    def of(cls, settings: ReadingSettings) -> Reader:
        """Build it. Raises `MappingError` where settings do not fit each other."""
        try:
            check_settings(settings)
        except SettingsMistakeError as error:
            raise MappingError(str(error), key=error.key) from error
        decode, fields, drop, time = settings.decode, settings.fields, settings.drop, settings.time
        return cls(
            decode=build_decoder(decode, fields, drop),
            decode_timed=None if time is None else build_timed_decoder(decode, fields, drop, time),
            report=settings.report,
            fields=listed_fields(fields),
        )


@dataclass(frozen=True, slots=True)
class Route:
    """Where readings go and how they are read."""

    device: str
    stream: str
    reader: Reader


class DeviceRule:
    """One entry of ``devices``: which topics it takes and what it makes of them. `MappingError` if wrong."""

    def __init__(self, settings: DeviceSettings, gateway_id: str) -> None:
        self.pattern = TopicPattern(settings.topic)
        captures = self.pattern.captures
        self._name = None if settings.name is None else Template(settings.name, captures, key="name")
        self._stream = StreamTemplate(settings.stream, (*captures, "gateway"))
        self._gateway_id = gateway_id
        self._reader = Reader.of(settings)

    def route(self, topic: str) -> Route | None:
        """The route of a topic, None if it is not this entry's; `RefusedNameError` for a dangerous name."""
        captured = self.pattern.match(topic)
        if captured is None:
            return None
        # A {rest...} that took nothing leaves no empty part at the end of the name.
        name = "/".join(filter(None, captured.values())) if self._name is None else self._name.render(captured)
        device = topic if self._name is None and not name else name
        check_device_name(device)
        stream = self._stream.render({**captured, "gateway": self._gateway_id})
        return Route(device=device, stream=stream, reader=self._reader)


class RouteTable:
    """Routes by topic: the first entry that matches wins. Remembers devices and streams, up to the limits.

    One thread. Devices and streams are never forgotten (they are what is limited); topics are only a cache.
    """

    def __init__(self, rules: Sequence[DeviceRule], limits: LimitSettings) -> None:
        self._rules = tuple(rules)
        self._limits = limits
        self._devices: set[str] = set()
        self._streams: set[str] = set()
        self._cache: dict[str, Route] = {}
        self._cache_size = max(_MIN_CACHED_TOPICS, 4 * limits.max_devices)
        self.beyond: tuple[int, str] = (0, "")
        """Messages beyond a limit since the start, and why the last one was; replaced whole, for any thread."""

    def route(self, topic: str) -> Route:
        """The route of a topic; `RefusedNameError` with the reason where there is none."""
        route = self._cache.get(topic)
        if route is None:
            route = self._find(topic)
            self._count(route)
            self._remember(topic, route)
        return route

    def _find(self, topic: str) -> Route:
        for rule in self._rules:
            route = rule.route(topic)
            if route is not None:
                return route
        raise RefusedNameError("no device of the configuration has this topic")

    def _count(self, route: Route) -> None:
        limits = self._limits
        if route.device not in self._devices and len(self._devices) >= limits.max_devices:
            self._refuse(f"device {route.device!r}", f"limits.max_devices ({limits.max_devices})")
        if route.stream not in self._streams and len(self._streams) >= limits.max_streams:
            self._refuse(f"stream {route.stream!r}", f"limits.max_streams ({limits.max_streams})")
        self._devices.add(route.device)
        self._streams.add(route.stream)

    def _refuse(self, what: str, limit: str) -> NoReturn:
        why = f"{what} is one more than {limit} allows"
        self.beyond = (self.beyond[0] + 1, why)
        raise RefusedNameError(why)

    def _remember(self, topic: str, route: Route) -> None:
        if len(topic) > _MAX_CACHED_TOPIC_CHARACTERS:
            return
        if len(self._cache) >= self._cache_size:
            self._cache.clear()
        self._cache[topic] = route


def compile_rules(devices: Sequence[DeviceSettings], gateway_id: str) -> list[DeviceRule]:
    """The rules of one broker's devices, in order. `MappingError` with the device's index if one is wrong.

    Two filters may overlap only if one contains the other: then the wider one alone is subscribed to. A broker
    may deliver a message once for every subscription that matches it (mosquitto does so with MQTT 5), and each
    copy would become a record.
    """
    rules: list[DeviceRule] = []
    for index, settings in enumerate(devices):
        try:
            rule = DeviceRule(settings, gateway_id)
            for earlier in rules:
                _check_pair(earlier.pattern, rule.pattern)
        except MappingError as error:
            raise MappingError(str(error), key=error.key, index=index) from error
        rules.append(rule)
    return rules


def subscriptions(rules: Sequence[DeviceRule]) -> list[str]:
    """The filters to subscribe to: each once, and none that another one contains."""
    filters = list(dict.fromkeys(rule.pattern.filter for rule in rules))
    return [narrow for narrow in filters if not any(wide != narrow and covers(wide, narrow) for wide in filters)]


def _check_pair(earlier: TopicPattern, later: TopicPattern) -> None:
    if covers(earlier.filter, later.filter):
        raise MappingError(
            f"topic {later.pattern!r}: never reached, because the entry {earlier.pattern!r} before it takes all "
            "its topics; put the narrower one first",
            key="topic",
        )
    if overlap(earlier.filter, later.filter) and not covers(later.filter, earlier.filter):
        raise MappingError(
            f"topic {later.pattern!r}: overlaps with {earlier.pattern!r}, and a broker may deliver a message for "
            "both of them twice; make them disjoint, or replace both by one wider entry",
            key="topic",
        )


def listed_fields(fields: Mapping[str, FieldSettings] | None) -> dict[str, str | None]:
    """Unit, or None, of each field that the settings list."""
    return {name: field.unit for name, field in (fields or {}).items()}
