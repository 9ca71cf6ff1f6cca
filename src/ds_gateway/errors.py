"""What can go wrong in the gateway, in one tree.

GatewayError
+-- ConfigError       the configuration is wrong; ``problems`` lists every mistake (exit status 2)
+-- JournalError      the journal cannot be used
|   +-- JournalLockedError    another process holds it
|   +-- JournalFormatError    a newer program wrote it
|   +-- JournalIdentityError  it belongs to another gateway id
|   +-- JournalDamagedError   a row does not carry the bytes that were written
|   +-- JournalUnreadableError  SQLite or the disk cannot read the file; the next start salvages
+-- DeviceError       a broker or a port; retried for ever, so it is seen in states and logs only
+-- CertificateError  files with certificates cannot be used
+-- UplinkError       a stream's uplink stopped; the reason is in its status
+-- DownlinkError     commands cannot be read now; tried again for ever, and seen in the status
+-- ControlError      the control socket: nobody there, or it refused
+-- CaptureError      the file of a capture cannot be read or written
"""

from __future__ import annotations

from dataclasses import dataclass


class GatewayError(Exception):
    """Root of every error that the gateway raises on purpose. Its text is fit for an operator."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a configuration: where it is, what it is, and the way out."""

    file: str
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        """As an editor can jump to it: ``file:line: key: message``."""
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class ConfigError(GatewayError):
    """The configuration is wrong. ``problems`` has every mistake found, in file order."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class JournalError(GatewayError):
    """The journal cannot be used; the text says what to do."""


class JournalClosedError(JournalError):
    """It takes no more requests: the gateway stops, or the journal has failed and said so."""


class JournalLockedError(JournalError):
    """Another process holds the journal's lock."""


class JournalFormatError(JournalError):
    """The journal was written by a newer program; nothing in it was changed."""


class JournalIdentityError(JournalError):
    """The journal belongs to a gateway with another id."""


class JournalDamagedError(JournalError):
    """A row's checksum does not match its bytes."""


class JournalUnreadableError(JournalError):
    """SQLite or the disk cannot read the journal's file. The next start looks at all of it, and salvages.

    ``reason`` is the cause alone, without what to do.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class DeviceError(GatewayError):
    """A broker or a port cannot be used now."""


class CertificateError(GatewayError):
    """Files with certificates cannot be used; the text names the file at fault."""


class UplinkError(GatewayError):
    """A stream's uplink cannot go on without an operator."""


class DownlinkError(GatewayError):
    """Commands cannot be read, or a command cannot be taken."""


class ControlError(GatewayError):
    """The control socket did not answer, or refused."""


class CaptureError(GatewayError):
    """The file of a capture cannot be read or written; the text has its name, the line and the way out."""
