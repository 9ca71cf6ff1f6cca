"""From a command to what its device gets: its name back to a topic or a port, its payload to bytes. Pure.

    "hall-1/plug" -> mqtt.hall.devices[0] -> {"hall": "hall-1", "sensor": "plug"} -> sensors/hall-1/plug/set

`NameInverse` says why that is exact. No two entries with commands share a name, over all brokers and ports.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import orjson

from ds_gateway.commands import MqttMessage, MqttReply, SerialMessage, SerialReply
from ds_gateway.mapping.errors import MappingError, RefusedNameError, RefusedPayloadError
from ds_gateway.mapping.inversion import PLACEHOLDER, NameInverse, fill, reply_filter, topic_template
from ds_gateway.mapping.streams import (
    check_device_name,
    check_downlink_streams,
    check_telemetry_stream,
    shown,
)
from ds_gateway.mapping.templates import Template
from ds_gateway.mapping.topics import TopicPattern, covers, overlap
from ds_gateway.mapping.writing import WriteTemplate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ds_gateway.commands import Delivery
    from ds_gateway.config.commands import MqttReplySettings, SerialReplySettings
    from ds_gateway.config.models import Settings
    from ds_gateway.config.mqtt import DeviceSettings
    from ds_gateway.config.serial_port import SerialDeviceSettings

T = TypeVar("T")

GATEWAY_DEVICE: Final = "@gateway"
"""The device of commands that are for the gateway itself."""
_MAX_TOPIC_BYTES: Final = 65535
_MAX_NAMES_TOLD: Final = 10


@dataclass(frozen=True, slots=True)
class CommandRoute:
    """How one device gets its commands."""

    device: str
    source: str
    """Name of its broker or port."""
    delivery: Delivery
    """What counts if the command says nothing."""
    expires_after_seconds: float
    max_rate: float | None
    """Commands a second."""
    make: Callable[[Any], MqttMessage | SerialMessage] = field(repr=False, compare=False)

    def message(self, payload: Any) -> MqttMessage | SerialMessage:
        """What the device gets for this payload, a JSON value. Raises `RefusedPayloadError`."""
        return self.make(payload)


class MqttCommandRule:
    """An entry of ``devices`` that has commands. `MappingError` where its commands cannot be led to one topic."""

    def __init__(self, source: str, index: int, settings: DeviceSettings) -> None:
        commands = settings.commands
        assert commands is not None, "asked for entries with commands only"
        self.source, self.index = source, index
        self.place = f"mqtt.{source}.devices[{index}]"
        self.pattern = TopicPattern(settings.topic)
        rest = self.pattern.rest
        self.template = _name_template(settings, self.pattern)
        """Of the devices' names."""
        self.names = NameInverse(self.template, rest)
        _not_the_gateway(self.names)
        captures, known = self.names.captures, self.pattern.captures
        self._topic = topic_template(commands.topic, captures, rest, known=known, key="commands.topic")
        self._answers: str | None = None
        if commands.reply is not None and commands.reply.topic is not None:
            self._answers = topic_template(
                commands.reply.topic, captures, rest, known=known, key="commands.reply.topic"
            )
        self.reply_filter = None if self._answers is None else reply_filter(self._answers, rest)
        """Where all answers of this entry come; None without answers, or with the response topic of MQTT 5."""
        self._commands = commands
        self._max_rate = settings.max_rate
        self.target = commands.topic
        """Where they go, for people."""
        self.delivery: Delivery = commands.delivery
        self.expires_after_seconds = commands.expires_after

    def route(self, device: str) -> CommandRoute | None:
        """The route of a device, None if it cannot be one of this entry's."""
        captured = self.names.captures_of(device)
        if captured is None:
            return None
        topic = fill(self._topic, captured)
        answers = None if self._answers is None else fill(self._answers, captured)
        for each in filter(None, (topic, answers)):
            if len(each.encode()) > _MAX_TOPIC_BYTES:
                raise RefusedNameError(f"device {shown(device)}: a topic has at most {_MAX_TOPIC_BYTES} bytes")
        reply = None if self._commands.reply is None else _mqtt_reply(self._commands.reply, answers)
        return CommandRoute(
            device=device,
            source=self.source,
            delivery=self._commands.delivery,
            expires_after_seconds=self._commands.expires_after,
            max_rate=self._max_rate,
            make=lambda payload: MqttMessage(topic, _mqtt_payload(payload), reply),
        )


class SerialCommandRule:
    """A device on a port that has commands. `MappingError` where its settings are wrong."""

    def __init__(self, source: str, where: str, index: int | None, settings: SerialDeviceSettings) -> None:
        commands = settings.commands
        assert commands is not None, "asked for devices with commands only"
        self.source = source
        self.place = serial_place(source, index)
        self.template = device = settings.name
        # A port's name is no template.
        self.names = NameInverse(device, is_literal=True)
        _not_the_gateway(self.names)
        try:
            template = WriteTemplate(commands.write)
        except MappingError as error:
            raise MappingError(str(error), key=f"commands.{error.key}") from error
        reply = None if commands.reply is None else _serial_reply(commands.reply)
        self.target = where
        """Where they go, for people."""
        self.delivery: Delivery = commands.delivery
        self.expires_after_seconds = commands.expires_after
        self._route = CommandRoute(
            device=device,
            source=source,
            delivery=commands.delivery,
            expires_after_seconds=commands.expires_after,
            max_rate=settings.max_rate,
            make=lambda payload: SerialMessage(template.render(payload), reply, commands.turnaround_seconds),
        )

    def route(self, device: str) -> CommandRoute | None:
        """The route of the device, None if it is another one."""
        return self._route if device == self._route.device else None


CommandRule = MqttCommandRule | SerialCommandRule


def serial_place(source: str, index: int | None) -> str:
    """Where the settings of a device on a port are."""
    return f"serial.{source}" if index is None else f"serial.{source}.devices[{index}]"


class CommandRoutes:
    """All devices that take commands. `MappingError` with the place of the setting that is wrong."""

    def __init__(self, settings: Settings) -> None:
        self._rules: list[CommandRule] = []
        self._mute: list[_Mute] = []
        self._takes_gateway_commands = bool(settings.downlink.gateway_commands)
        filters: dict[str, list[str]] = {}
        for source, broker in settings.mqtt.items():
            filters[source] = [TopicPattern(device.topic).filter for device in broker.devices]
            for index, device in enumerate(broker.devices):
                place = f"mqtt.{source}.devices[{index}]"
                if device.commands is None:
                    self._mute.append(_Mute.mqtt(place, source, index, device))
                else:
                    self._rules.append(_placed(place, partial(MqttCommandRule, source, index, device)))
        for source, port in settings.serial.items():
            for place_index, each in port.each_device(source):
                place = serial_place(source, place_index)
                if each.commands is None:
                    self._mute.append(_Mute.serial(place, source, each))
                else:
                    self._rules.append(
                        _placed(place, partial(SerialCommandRule, source, port.where, place_index, each))
                    )
        if self:
            gateway = settings.gateway.id
            _placed("downlink", partial(check_downlink_streams, settings.downlink, gateway))
            for place, stream in _telemetry(settings):
                _placed(place, partial(check_telemetry_stream, stream, settings.downlink, gateway))
        try:
            check_rules(self._rules, filters)
        except MappingError as error:
            place = f"{self._rules[error.index or 0].place}.{error.key}"
            raise MappingError(f"{place}: {error}", key=place) from error

    @property
    def rules(self) -> Sequence[CommandRule]:
        """The entries and ports with commands, in the order of the configuration."""
        return tuple(self._rules)

    def __bool__(self) -> bool:
        """Whether there is anything that a command could be for."""
        return bool(self._rules) or self._takes_gateway_commands

    def route(self, device: str) -> CommandRoute:
        """The route of a device. Raises `RefusedNameError` if there is none, or the device takes no commands."""
        check_device_name(device)
        if device == GATEWAY_DEVICE:
            raise RefusedNameError(f"{GATEWAY_DEVICE} is this gateway itself, and no device")
        for rule in self._rules:
            route = rule.route(device)
            if route is not None:
                self._check_first(rule, device)
                return route
        for mute in self._mute:
            if mute.may_be(device):
                raise _takes_none(device, mute)
        raise RefusedNameError(f"there is no device {shown(device)}: {self._known(device)}")

    def reply_filters(self, source: str) -> list[str]:
        """Where the answers come on this broker: topic filters with wildcards, none that another one contains."""
        filters = dict.fromkeys(
            rule.reply_filter
            for rule in self._rules
            if isinstance(rule, MqttCommandRule) and rule.source == source and rule.reply_filter is not None
        )
        return [
            narrow for narrow in filters if not any(wide != narrow and covers(wide, narrow) for wide in filters)
        ]

    def _check_first(self, rule: CommandRule, device: str) -> None:
        """A narrower entry before this one may take the device's messages, and it takes no commands."""
        if not isinstance(rule, MqttCommandRule):
            return
        topic = rule.pattern.topic(rule.names.captures_of(device) or {})
        for mute in self._mute if topic is not None else ():
            if mute.source == rule.source and mute.index < rule.index and mute.takes(topic or ""):
                raise _takes_none(device, mute)

    def _known(self, device: str) -> str:
        names = [rule.names.template for rule in self._rules]
        if not names:
            return "no device of this gateway takes commands"
        nearest = difflib.get_close_matches(device, names, n=1)
        if nearest:
            return f"did you mean {nearest[0]}?"
        more = f" and {len(names) - _MAX_NAMES_TOLD} more" if len(names) > _MAX_NAMES_TOLD else ""
        return f"commands are taken by {', '.join(names[:_MAX_NAMES_TOLD])}{more}"


@dataclass(frozen=True, slots=True)
class _Mute:
    """A device, or a family of them, that takes no commands."""

    place: str
    source: str
    index: int
    pattern: TopicPattern | None
    names: re.Pattern[str] | None
    """None: its names are its topics."""

    @classmethod
    def mqtt(cls, place: str, source: str, index: int, settings: DeviceSettings) -> Self:
        pattern = TopicPattern(settings.topic)
        text = settings.name or "/".join(f"{{{name}}}" for name in pattern.captures)
        if not text:
            return cls(place, source, index, pattern, None)
        literals, names = (PLACEHOLDER.split(text)[part::2] for part in (0, 1))
        regex = re.escape(literals[0])
        for name, literal in zip(names, literals[1:], strict=True):
            regex += (".*" if name == pattern.rest else "[^/]*") + re.escape(literal)
        return cls(place, source, index, pattern, re.compile(regex, re.DOTALL))

    @classmethod
    def serial(cls, place: str, source: str, settings: SerialDeviceSettings) -> Self:
        return cls(place, source, 0, None, re.compile(re.escape(settings.name)))

    def takes(self, topic: str) -> bool:
        return self.pattern is not None and self.pattern.match(topic) is not None

    def may_be(self, device: str) -> bool:
        return self.takes(device) if self.names is None else self.names.fullmatch(device) is not None


def check_rules(rules: Sequence[CommandRule], filters: Mapping[str, Sequence[str]]) -> None:
    """Check entries with those before them, and answers with what is subscribed to.

    ``filters`` are those of the devices, by broker. `MappingError` with the index of the rule and the key in it.
    """
    for index, rule in enumerate(rules):
        for earlier in rules[:index]:
            if rule.names.meets(earlier.names):
                raise MappingError(
                    f"a device can have the name {rule.names.template!r} here and "
                    f"{earlier.names.template!r} in {earlier.place}, and a command could not tell which: give "
                    "one of them another name, as with a first part of its own",
                    key="commands" if isinstance(rule, SerialCommandRule) else "name",
                    index=index,
                )
        if isinstance(rule, MqttCommandRule) and rule.reply_filter is not None:
            theirs = [
                each.reply_filter
                for each in rules[:index]
                if isinstance(each, MqttCommandRule) and each.source == rule.source and each.reply_filter
            ]
            for other in (*filters.get(rule.source, ()), *theirs):
                _check_overlap(rule.reply_filter, other, index)


def _check_overlap(mine: str, other: str, index: int) -> None:
    if overlap(mine, other) and not covers(mine, other) and not covers(other, mine):
        raise MappingError(
            f"the answers come on {mine!r}, which overlaps with {other!r}, and a broker may deliver a message for "
            "both of them twice: make them disjoint, or make one of them contain the other",
            key="commands.reply.topic",
            index=index,
        )


def _placed(place: str, make: Callable[[], T]) -> T:
    try:
        return make()
    except MappingError as error:
        raise MappingError(f"{place}.{error.key}: {error}", key=f"{place}.{error.key}") from error


def _telemetry(settings: Settings) -> Iterator[tuple[str, str]]:
    for source, broker in settings.mqtt.items():
        for index, device in enumerate(broker.devices):
            yield f"mqtt.{source}.devices[{index}]", device.stream
    for source, port in settings.serial.items():
        for place_index, each in port.each_device(source):
            yield serial_place(source, place_index), (each.stream or "").replace("{name}", each.name)


def _takes_none(device: str, mute: _Mute) -> RefusedNameError:
    return RefusedNameError(
        f"device {shown(device)} takes no commands: {mute.place} has no commands; add them there",
        code="no_commands",
    )


def _name_template(settings: DeviceSettings, pattern: TopicPattern) -> str:
    if settings.name is not None:
        return Template(settings.name, pattern.captures, key="name").text
    joined = "/".join(f"{{{name}}}" for name in pattern.captures)
    if pattern.rest is not None:
        # An empty level is left out of a default name, and the levels of the rest would take its place.
        raise MappingError(
            f"must be set with commands, because {{{pattern.rest}...}} takes several levels: write name: "
            f'"{joined}", if that is what the devices are called',
            key="name",
        )
    if not joined and ("+" in pattern.filter or "#" in pattern.filter):
        raise MappingError(
            f"must be set with commands, because the topic {settings.topic!r} has wildcards without a name: write "
            "{name} in place of + in the topic, or give all its messages one device with name",
            key="name",
        )
    return joined or settings.topic


def _not_the_gateway(names: NameInverse) -> None:
    if names.is_fixed and names.template == GATEWAY_DEVICE:
        raise MappingError(
            f"name {GATEWAY_DEVICE!r} is the gateway itself to whoever sends commands: give the device "
            "another name",
            key="name",
        )


def _mqtt_payload(payload: Any) -> bytes:
    try:
        return payload.encode() if isinstance(payload, str) else orjson.dumps(payload)
    except UnicodeEncodeError:
        raise RefusedPayloadError("the payload is not valid Unicode") from None
    except TypeError as error:
        raise RefusedPayloadError(f"the payload is no JSON value: {error}") from None


def _mqtt_reply(settings: MqttReplySettings, topic: str | None) -> MqttReply:
    return MqttReply(
        topic=topic,
        id_pointer=settings.id,
        pattern=_regex(settings.pattern),
        error=_regex(settings.error),
        timeout_seconds=settings.timeout_seconds,
        retries=settings.retries,
    )


def _serial_reply(settings: SerialReplySettings) -> SerialReply:
    return SerialReply(
        pattern=re.compile(settings.pattern),
        error=_regex(settings.error),
        timeout_seconds=settings.timeout_seconds,
        retries=settings.retries,
    )


def _regex(text: str | None) -> re.Pattern[str] | None:
    return None if text is None else re.compile(text)
