"""The gateway's parts, each built from the configuration. Nothing is started here."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ds_gateway.downlink.surroundings import Options
from ds_gateway.following import Following
from ds_gateway.journal import Intake, Journal, JournalLimits
from ds_gateway.mapping import MqttPipeline, SerialPipeline, stream_path
from ds_gateway.mqtt import DedupeGate, MqttSource
from ds_gateway.quarantine import Quarantine
from ds_gateway.serial_port import SerialSource
from ds_gateway.status import SourceStatus
from ds_gateway.transfer import Place, Transfer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ds_gateway.certificates import Certificates
    from ds_gateway.config.models import Settings
    from ds_gateway.config.mqtt import MqttSettings
    from ds_gateway.config.serial_port import SerialSettings
    from ds_gateway.control import Verb
    from ds_gateway.embedded import EmbeddedServer
    from ds_gateway.journal.book import Book
    from ds_gateway.mapping.commands import CommandRoutes
    from ds_gateway.records import Item
    from ds_gateway.timekeeping import WallClock

MQTT_QUEUE_ITEMS: Final = 200_000
"""Above every Receive Maximum: what bounds an MQTT source is its own window, and the bytes of its queue."""
SERIAL_QUEUE_ITEMS: Final = 100_000
QUARANTINE: Final = "@quarantine"
QUARANTINE_QUEUE_ITEMS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Source:
    """A source with what belongs to it."""

    name: str
    source: MqttSource | SerialSource
    pipeline: MqttPipeline | SerialPipeline
    intake: Intake

    def status(self, *, with_devices: bool = True) -> SourceStatus:
        """How it is now, with the last readings of its devices or without."""
        return SourceStatus(
            name=self.name,
            snapshot=self.source.snapshot(),
            waiting_bytes=self.intake.waiting_bytes,
            readings=self.pipeline.devices() if with_devices else {},
            alarms=self.pipeline.alarms,
        )


def embedded_server(settings: Settings) -> EmbeddedServer | None:
    """The stream server in this process; None where the server is elsewhere."""
    if not settings.server.is_embedded:
        return None
    # Only who is served by it pays for this import: a tenth of the start, and megabytes.
    from ds_gateway.embedded import EmbeddedServer, options  # noqa: PLC0415

    return EmbeddedServer(options(settings.data_dir, settings.server, settings.journal, listen=True))


def receipt_stream(settings: Settings, routes: CommandRoutes) -> str:
    """Name of the stream of receipts; empty where no device takes commands."""
    return settings.downlink.receipt_stream(settings.gateway.id) if routes else ""


def open_journal(
    settings: Settings,
    receipts: str,
    *,
    on_stream: Callable[[Book], None],
    on_confirmed: Callable[[int], None],
    on_point: Callable[[str, frozenset[str]], None],
    wall_clock: WallClock,
) -> Journal:
    """Open the journal; see `Journal.open`. Raises `JournalError`."""
    return Journal.open(
        Path(settings.data_dir),
        gateway=settings.gateway.id,
        url=settings.server.url,
        limits=JournalLimits(
            max_bytes=settings.journal.max_bytes,
            min_free_bytes=settings.journal.min_free_bytes,
            retain_bytes=settings.journal.retain_bytes,
            batch_max_bytes=settings.batch.max_bytes,
            max_delay_seconds=settings.batch.max_delay_seconds,
            commit_interval_seconds=settings.journal.commit_interval_seconds,
            when_full=settings.journal.when_full,
            max_age_seconds=settings.journal.max_age,
            receipts=receipts,
            envelope=settings.gateway.envelope,
        ),
        on_stream=on_stream,
        on_confirmed=on_confirmed,
        on_point=on_point,
        wall_clock=wall_clock,
    )


def sources(
    settings: Settings,
    journal: Journal,
    routes: CommandRoutes,
    wall_clock: WallClock,
    certificates: Certificates,
) -> list[Source]:
    """All brokers and ports. ``certificates`` is told by which ones brokers are accepted."""
    return [
        *(
            mqtt_source(name, mqtt, settings, journal, routes, wall_clock=wall_clock, certificates=certificates)
            for name, mqtt in settings.mqtt.items()
        ),
        *(
            serial_source(name, serial, settings, journal, wall_clock=wall_clock)
            for name, serial in settings.serial.items()
        ),
    ]


def mqtt_source(
    name: str,
    broker: MqttSettings,
    settings: Settings,
    journal: Journal,
    routes: CommandRoutes,
    *,
    wall_clock: WallClock,
    certificates: Certificates,
) -> Source:
    """One broker."""
    pipeline = MqttPipeline(
        name, settings.gateway.id, broker.devices, settings.limits, wall_clock, envelope=settings.gateway.envelope
    )
    intakes: list[Intake] = []

    def make_intake(*, gate: DedupeGate, on_committed: Callable[[Sequence[Item], int], None]) -> Intake:
        intake = journal.intake(name, max_items=MQTT_QUEUE_ITEMS, gate=gate, on_committed=on_committed)
        intakes.append(intake)
        return intake

    source = MqttSource(
        name,
        broker,
        client_id=broker.client_id or journal.identity.mqtt_client,
        filters=pipeline.filters,
        reply_filters=routes.reply_filters(name),
        has_response_topic=any(
            device.commands is not None
            and device.commands.reply is not None
            and device.commands.reply.topic is None
            for device in broker.devices
        ),
        pipeline=pipeline,
        on_dropped=pipeline.forget_reports,
        on_shown=partial(certificates.shown, f"mqtt.{name}", broker.url),
        intake_factory=make_intake,
        data_dir=Path(settings.data_dir),
        journal_commit=journal.commit_at_open,
    )
    return Source(name, source, pipeline, intakes[0])


def serial_source(
    name: str, port: SerialSettings, settings: Settings, journal: Journal, *, wall_clock: WallClock
) -> Source:
    """One port."""
    pipeline = SerialPipeline(name, settings.gateway.id, port, wall_clock, envelope=settings.gateway.envelope)
    intake = journal.intake(name, max_items=SERIAL_QUEUE_ITEMS)
    source = SerialSource(
        name,
        port,
        pipeline=pipeline,
        on_dropped=pipeline.forget_reports,
        intake=intake,
        random=random.SystemRandom(),
    )
    return Source(name, source, pipeline, intake)


def ports(sources: Sequence[Source]) -> dict[str, SerialSource]:
    """Those of the sources that are serial ports, by name."""
    return {each.name: each.source for each in sources if isinstance(each.source, SerialSource)}


def pipelines(settings: Settings) -> dict[str, MqttPipeline | SerialPipeline]:
    """What reads the payloads of each source once more; not those that the running sources have.

    All that is read is reported: each of them is all that there is of its reading, and a step that was not
    committed is tried again.
    """
    gateway, envelope = settings.gateway.id, settings.gateway.envelope
    return {
        **{
            name: MqttPipeline(name, gateway, broker.devices, settings.limits, envelope=envelope, reports_all=True)
            for name, broker in settings.mqtt.items()
        },
        **{
            name: SerialPipeline(name, gateway, port, envelope=envelope, reports_all=True)
            for name, port in settings.serial.items()
        },
    }


def quarantine(settings: Settings, journal: Journal) -> Quarantine:
    """What looks into the quarantine of an open journal, and tries again what is in it."""
    make_intake = partial(journal.intake, QUARANTINE, max_items=QUARANTINE_QUEUE_ITEMS)
    return Quarantine(Path(settings.data_dir), partial(pipelines, settings), make_intake)


def transfer(settings: Settings, journal: Journal | None, receipts: str) -> Transfer:
    """What exports from a journal, and imports into it; None: one that is not open, to look into only."""
    return Transfer(
        Path(settings.data_dir),
        None if journal is None else journal.mover,
        Place(
            settings.gateway.id,
            settings.server.url,
            settings.journal.max_bytes,
            receipts=receipts,
            reads_back=settings.exactly_once.read_back,
        ),
    )


def journal_verbs(settings: Settings, journal: Journal, receipts: str) -> dict[str, Verb]:
    """Looking into the journal, and moving what is in it."""
    return {
        "tail": Following(Path(settings.data_dir)).answer,
        "journal": transfer(settings, journal, receipts).answer,
    }


def downlink_options(settings: Settings, receipts: str, *, dry_run: bool) -> Options:
    """What the configuration says of commands."""
    stream = settings.downlink.command_stream(settings.gateway.id)
    return Options(
        gateway=settings.gateway.id,
        stream=stream,
        receipts=receipts,
        url=f"{settings.server.base_url}/{stream_path(stream)}",
        receipts_url=f"{settings.server.base_url}/{stream_path(receipts)}",
        start=settings.downlink.start,
        create=settings.server.create,
        trusts_clock="trusted" in (settings.downlink.clock, settings.gateway.clock),
        gateway_commands=settings.downlink.gateway_commands,
        dry_run=dry_run,
        envelope=settings.gateway.envelope,
    )
