"""What can go wrong, in one tree.

    DurableStreamError                 message, code, status, url, headers, in_doubt, records
    +-- StreamNotFoundError            404
    +-- StreamExistsError              409 on create: the stream exists with another configuration
    +-- StreamClosedError              409 with ``Stream-Closed``: no more appends, ever
    +-- SeqConflictError               409 on append: ``Stream-Seq`` went backwards
    +-- ContentTypeMismatchError       409 on append: the stream has another content type
    +-- RetentionGoneError             410: the offset, or the stream, is gone
    +-- BadRequestError                400: the server refuses this very request
    |   +-- InvalidOffsetError         400 on a read: the offset is not one of this stream's
    +-- PayloadTooLargeError           413
    +-- StreamConsumedError            a response was read a second time (the caller's mistake)
    +-- SSENotSupportedError           ``live="sse"`` was asked for and cannot be had
    +-- ParseError                     what was read is not the JSON or the text it was read as
    |   +-- SSEEncodingError           an event stream's data cannot be decoded
    +-- FetchError                     no usable answer: network, timeout, proxy, 5xx after the last retry
    |   +-- UnauthorizedError          401 and 403 without producer headers: credentials
    |   +-- RateLimitedError           429 after the last retry
    +-- MessageError                   one message cannot be sent (not JSON, too large); others go on
    +-- ProducerError                  an idempotent producer cannot go on; ``records`` are the unacknowledged
        +-- StaleEpochError            403 with ``Producer-Epoch``: somebody claimed a higher epoch
        +-- SequenceGapError           409 with ``Producer-Expected-Seq``
        +-- ProducerStoppedError       a batch before this one failed for good
        +-- ProducerFullError          no room for more until the server confirms some (back-pressure)
        +-- ProducerStoreError         the producer's store cannot be used: another producer's, I/O error, format
            +-- ProducerStoreLockedError    somebody else has it open
            +-- ProducerStoreDamagedError   its file is damaged, or no store at all

Exceptions of the HTTP library never leak: the two fronts translate them once and keep them as ``__cause__``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class DurableStreamError(Exception):
    """Root of every error that this package raises.

    ``message`` is its text, ``code`` a stable word for programs, ``status`` the HTTP status (None without an
    answer), ``url`` the stream, ``headers`` the answer's headers with lower-case names. ``in_doubt`` is True for a
    write that failed but may have taken effect all the same: its answer was lost. Its notes say what is known.
    ``records`` are the messages that a producer could not deliver because of this error; empty everywhere else.
    """

    code: str = "ERROR"
    in_doubt: bool = False
    records: tuple[bytes, ...] = ()

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        url: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.url = url
        self.headers: Mapping[str, str] = {} if headers is None else headers

    @property
    def message(self) -> str:
        """The text, without the notes."""
        return str(self)


class StreamNotFoundError(DurableStreamError):
    """There is no stream at this URL (404)."""

    code = "NOT_FOUND"


class StreamExistsError(DurableStreamError):
    """The stream exists with another content type, expiry or closure (409 on create)."""

    code = "CONFLICT_EXISTS"


class StreamClosedError(DurableStreamError):
    """The stream is closed: no append can ever succeed again (409 with ``Stream-Closed``)."""

    code = "STREAM_CLOSED"


class SeqConflictError(DurableStreamError):
    """``Stream-Seq`` was not greater than the last one (409, PROTOCOL section 5.2)."""

    code = "CONFLICT_SEQ"


class ContentTypeMismatchError(DurableStreamError):
    """The append's content type is not the stream's (409, PROTOCOL section 5.2)."""

    code = "CONFLICT_CONTENT_TYPE"


class RetentionGoneError(DurableStreamError):
    """The offset lies before the earliest retained position, or the stream was deleted (410)."""

    code = "RETENTION_EXPIRED"


class BadRequestError(DurableStreamError):
    """The server refuses this request and would refuse it again (400)."""

    code = "BAD_REQUEST"


class InvalidOffsetError(BadRequestError):
    """The server refused a read (400): the offset is malformed, or a parameter is."""

    code = "INVALID_OFFSET"


class PayloadTooLargeError(DurableStreamError):
    """The body exceeds a limit of the server or of a proxy in front of it (413)."""

    code = "PAYLOAD_TOO_LARGE"


class StreamConsumedError(DurableStreamError):
    """A response is one-shot and was read a second time."""

    code = "ALREADY_CONSUMED"


class SSENotSupportedError(DurableStreamError):
    """Server-sent events were asked for explicitly, and no event stream can be had."""

    code = "SSE_NOT_SUPPORTED"


class ParseError(DurableStreamError):
    """What was read is not valid JSON, or not valid UTF-8."""

    code = "PARSE_ERROR"


class SSEEncodingError(ParseError):
    """The data of an event stream is not valid base64, or one event is too large to be read this way."""

    code = "SSE_ENCODING"


class FetchError(DurableStreamError):
    """No usable answer: connection, timeout, an answer that is not a stream server's, or 5xx to the end.

    Refused credentials and rate limits are among them: what they need is another
    attempt, with a fresh token or later.
    """

    code = "FETCH_ERROR"


class UnauthorizedError(FetchError):
    """The server refused the credentials (401, or 403 without producer headers)."""

    code = "UNAUTHORIZED"


class RateLimitedError(FetchError):
    """The server asked to slow down (429) and did so until the last retry."""

    code = "RATE_LIMITED"


class MessageError(DurableStreamError, ValueError):
    """One message cannot be sent: not valid JSON, or larger than a batch may be."""

    code = "BAD_MESSAGE"


class ProducerError(DurableStreamError):
    """An idempotent producer cannot go on. ``records`` holds the messages that were not acknowledged."""

    code = "PRODUCER"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        url: str | None = None,
        headers: Mapping[str, str] | None = None,
        records: Sequence[bytes] = (),
    ) -> None:
        super().__init__(message, status=status, url=url, headers=headers)
        self.records: tuple[bytes, ...] = tuple(records)


class StaleEpochError(ProducerError):
    """Another producer with this id claimed a higher epoch (403, PROTOCOL section 5.2.1)."""

    code = "STALE_EPOCH"


class SequenceGapError(ProducerError):
    """The server expects an earlier sequence number (409, PROTOCOL section 5.2.1)."""

    code = "SEQUENCE_GAP"


class ProducerStoppedError(ProducerError):
    """A batch before this one failed for good; sending this one would reorder the stream."""

    code = "PRODUCER_STOPPED"


class ProducerFullError(ProducerError):
    """The producer holds as much as it may until the server confirms some of it; this message was not taken."""

    code = "PRODUCER_FULL"


class ProducerStoreError(ProducerError):
    """The store of a durable producer cannot be used; the message names the file and the way out."""

    code = "PRODUCER_STORE"


class ProducerStoreLockedError(ProducerStoreError):
    """The store is open elsewhere, in another process or in this one; it has one producer at a time."""

    code = "PRODUCER_STORE_LOCKED"


class ProducerStoreDamagedError(ProducerStoreError):
    """The store's file is damaged, or is not a store. It was not changed."""

    code = "PRODUCER_STORE_DAMAGED"
