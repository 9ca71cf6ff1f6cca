"""What the gateway says about itself, asked again and again; while it is dead, what it said last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ds_gateway import control
from ds_gateway.errors import ControlError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_ANSWER_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class StreamNumbers:
    """One stream, as the gateway counts it: records, since its journal was made."""

    url: str
    accepted: int = 0
    in_journal: int = 0
    in_stream: int = 0


class Watch:
    """Asks the control socket. What is shown survives the gateway; what decisions rest on must be fresh."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._pid = 0
        self._sources: dict[str, str] = {}
        self.readings: dict[str, Mapping[str, Any]] = {}
        """Each device's last reading that any gateway has seen."""
        self.streams: dict[str, StreamNumbers] = {}
        """By name."""
        self.trouble = ""
        """Why the gateway cannot be asked now; empty while it answers."""
        self.quarantined = 0
        self.has_read_commands = False
        """Whether the gateway that was asked last has read its stream of commands to the end."""

    def ask(self) -> None:
        """Ask once. A gateway that does not answer is no error: it is killed on purpose here."""
        try:
            status = control.call(self._socket, "status", timeout_seconds=_ANSWER_SECONDS)
        except ControlError as error:
            self._pid, self._sources, self.trouble = 0, {}, str(error)
            return
        self.trouble = ""
        self._pid = status["gateway"]["pid"]
        self.quarantined = status["journal"]["quarantined"]
        downlink = status["downlink"]
        self.has_read_commands = downlink is not None and downlink["up_to_date"]
        self._sources = {source["name"]: source["state"] for source in status["sources"]}
        for stream in status["streams"]:
            self.streams[stream["name"]] = StreamNumbers(
                stream["url"], stream["accepted"], stream["in_journal"], stream["in_stream"]
            )
        for device in status["devices"]:
            if device["last_data"] is not None:
                self.readings[device["name"]] = device["last_data"]

    def answers(self, pid: int) -> bool:
        """Whether the gateway with this process id answered the last question."""
        return pid != 0 and self._pid == pid

    def source_is(self, name: str, state: str, pid: int) -> bool:
        """Whether that gateway said so of a source."""
        return self.answers(pid) and self._sources.get(name) == state

    def numbers(self, stream: str) -> StreamNumbers:
        """What is known of a stream; zeros before its first record."""
        return self.streams.get(stream, StreamNumbers(url=""))

    def has_all(self, stream: str, sent: int, pid: int) -> bool:
        """Whether that gateway has accepted as many records for the stream, and knows all of them to be there."""
        numbers = self.numbers(stream)
        return self.answers(pid) and numbers.accepted >= sent and numbers.in_journal == 0
