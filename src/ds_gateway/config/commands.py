"""The settings of the downlink: where commands come from, and how a device gets them and answers.

Messages as in `models`: one that begins with "must" gets the refused value appended.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from ds_gateway.config.base import Model, NonEmpty
from ds_gateway.config.dedupe_key import DedupeKey
from ds_gateway.config.quantities import Seconds
from ds_gateway.config.texts import StreamPattern, line_ends

RESPONSE_TOPIC: Final = "response_topic"
MAX_EXPIRY_SECONDS: Final = 86400.0
"""For so long ids of finished commands are kept: an older one could be done twice."""
MAX_PATTERN_CHARACTERS: Final = 1024


def _regex(value: str) -> str:
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"must be a regular expression ({error})") from None
    return value


def _json_pointer(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("must be a JSON pointer into the answer, as /id for its member id")
    DedupeKey.parse(value)
    return value


Regex = Annotated[str, Field(min_length=1, max_length=MAX_PATTERN_CHARACTERS), AfterValidator(_regex)]
JsonPointer = Annotated[str, AfterValidator(_json_pointer)]
Delivery = Literal["at_least_once", "at_most_once"]
ReplySeconds = Annotated[Seconds, Field(ge=0.05, le=3600)]
Retries = Annotated[int, Field(ge=0, le=100)]
Expiry = Annotated[Seconds, Field(ge=0.1, le=MAX_EXPIRY_SECONDS)]
CommandRate = Annotated[float, Field(ge=0.001, le=1000)]


class DownlinkSettings(Model):
    """Commands for devices. It runs only if some device has commands, or gateway_commands are allowed."""

    stream: StreamPattern = Field("commands/{gateway}", description="Stream of commands; has {gateway} in it.")
    receipts: StreamPattern = Field("receipts/{gateway}", description="Stream of receipts; has {gateway} in it.")
    start: Literal["tail", "beginning"] = Field(
        "tail", description="Where a new gateway begins: with what comes, or with all that is in the stream."
    )
    clock: Literal["synchronised", "trusted"] = Field(
        "synchronised",
        description="synchronised: commands wait while this machine's clock is not synchronised; trusted: never. "
        "gateway.clock: trusted is for commands and records.",
    )
    gateway_commands: list[Literal["status", "reload", "resolve"]] = Field(
        default_factory=list, description="What a command to the device @gateway may do; default: nothing."
    )

    def command_stream(self, gateway: str) -> str:
        """Name of the stream that this gateway takes commands from."""
        return self.stream.replace("{gateway}", gateway)

    def receipt_stream(self, gateway: str) -> str:
        """Name of the stream with what became of them."""
        return self.receipts.replace("{gateway}", gateway)


class MqttReplySettings(Model):
    """How a device answers a command on its broker; the one word response_topic is a mapping without keys."""

    topic: NonEmpty | None = Field(
        None,
        description="Topic of the answers, with the captures of the entry; default: the response topic of MQTT 5.",
    )
    id: JsonPointer | None = Field(
        None,
        description="JSON pointer to the command's id in the answer; default: the first answer after the command.",
    )
    pattern: Regex | None = Field(
        None, description="Regular expression found in an answer; default: every message is one."
    )
    error: Regex | None = Field(None, description="Regular expression found in an answer that means failed.")
    timeout_seconds: ReplySeconds = Field(10.0, description="How long an answer is waited for, in seconds.")
    retries: Retries = Field(0, description="How often it is sent again without an answer; at_least_once only.")


class MqttCommandSettings(Model):
    """How commands reach the devices of this entry: published at QoS 1, never retained."""

    topic: NonEmpty = Field(description="Topic to publish to, with the captures of the entry's topic.")
    delivery: Delivery = Field("at_least_once", description="What a crash may do: repeat, or leave out.")
    expires_after: Expiry = Field(
        60.0,
        description="When a command without an expiry of its own is too old, from its issued_at; 24h at most.",
    )
    reply: MqttReplySettings | None = Field(
        None, description="response_topic, or how the device answers; default: it does not."
    )

    @field_validator("reply", mode="before")
    @classmethod
    def _reply(cls, value: Any) -> Any:
        if value == RESPONSE_TOPIC:
            return {}
        if isinstance(value, str):
            raise ValueError(  # noqa: TRY004 - pydantic collects ValueErrors
                f"must be {RESPONSE_TOPIC} or a mapping, as {{topic: stat/{{sensor}}/RESULT}}"
            )
        return value


class WriteSettings(Model):
    """What is written to a port for a command: text, or {hex: "02 54 03"}."""

    text: Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(line_ends)] | None = Field(
        None,
        description="ASCII text; {payload} is the whole payload, {name} a member of it, {name:.1f} a number in "
        "Python's format.",
    )
    hex: Annotated[str, Field(min_length=1, max_length=8192)] | None = Field(
        None, description="Hex digits and blanks, with the same placeholders, as {name:02X}."
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.text is None) == (self.hex is None):
            raise ValueError('is one text, as "T\\r\\n", or one mapping {hex: "02 54 03"}')
        return self


class SerialReplySettings(Model):
    """How a device answers a command on its port: a frame that has the pattern or the error in it."""

    pattern: Regex = Field(description="Regular expression found in the frame that is the answer.")
    error: Regex | None = Field(None, description="Regular expression found in a frame that means failed.")
    timeout_seconds: ReplySeconds = Field(2.0, description="How long an answer is waited for, in seconds.")
    retries: Retries = Field(0, description="How often it is written again without an answer; at_least_once only.")


class SerialCommandSettings(Model):
    """How commands reach the device on this port."""

    write: WriteSettings = Field(description="What is written: text, or a mapping with hex.")
    delivery: Delivery = Field("at_least_once", description="What a crash may do: repeat, or leave out.")
    expires_after: Expiry = Field(
        60.0,
        description="When a command without an expiry of its own is too old, from its issued_at; 24h at most.",
    )
    turnaround_seconds: Annotated[Seconds, Field(le=60)] = Field(
        0.0, description="Silence on the line before a command and after it, in seconds."
    )
    reply: SerialReplySettings | None = Field(None, description="How the device answers; default: it does not.")

    @field_validator("write", mode="before")
    @classmethod
    def _write(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"text": value}
        if not isinstance(value, dict):
            raise ValueError("must be text, or a mapping with hex")  # noqa: TRY004 - pydantic collects ValueErrors
        return value
