"""Client, idempotent producer and server for the Durable Streams protocol.

with stream("https://streams.example.com/v1/stream/readings") as readings:
    for reading in readings.iter_json():
        print(reading, readings.offset)
"""

from durable_streams._async import AsyncDurableStream
from durable_streams._async_producer import IdempotentProducer
from durable_streams._async_response import AsyncStreamResponse, astream
from durable_streams._pull import Command, Halt, Policy, PostBatch, Pull, Resolve, Stage, Stop, Wait
from durable_streams._push_async import Acknowledgement, Appended
from durable_streams._push_threads import SyncAcknowledgement
from durable_streams._retry import Backoff, RandomSource
from durable_streams._store import Finder, Presence, ProducerState, ProducerStore, SealedBatch
from durable_streams._store_producer import StoreProducer
from durable_streams._sync import DurableStream
from durable_streams._sync_producer import SyncIdempotentProducer
from durable_streams._sync_response import StreamResponse, stream
from durable_streams._types import (
    AppendResult,
    CloseResult,
    HeadersLike,
    HeadResult,
    IdempotentAppendResult,
    LiveMode,
    Offset,
    ParamsLike,
    RetryWith,
    StreamEvent,
)
from durable_streams.errors import (
    BadRequestError,
    ContentTypeMismatchError,
    DurableStreamError,
    FetchError,
    InvalidOffsetError,
    MessageError,
    ParseError,
    PayloadTooLargeError,
    ProducerError,
    ProducerFullError,
    ProducerStoppedError,
    RateLimitedError,
    RetentionGoneError,
    SeqConflictError,
    SequenceGapError,
    SSENotSupportedError,
    StaleEpochError,
    StreamClosedError,
    StreamConsumedError,
    StreamExistsError,
    StreamNotFoundError,
    UnauthorizedError,
)

__all__ = [
    "Acknowledgement",
    "AppendResult",
    "Appended",
    "AsyncDurableStream",
    "AsyncStreamResponse",
    "Backoff",
    "BadRequestError",
    "CloseResult",
    "Command",
    "ContentTypeMismatchError",
    "DurableStream",
    "DurableStreamError",
    "FetchError",
    "Finder",
    "Halt",
    "HeadResult",
    "HeadersLike",
    "IdempotentAppendResult",
    "IdempotentProducer",
    "InvalidOffsetError",
    "LiveMode",
    "MessageError",
    "Offset",
    "ParamsLike",
    "ParseError",
    "PayloadTooLargeError",
    "Policy",
    "PostBatch",
    "Presence",
    "ProducerError",
    "ProducerFullError",
    "ProducerState",
    "ProducerStoppedError",
    "ProducerStore",
    "Pull",
    "RandomSource",
    "RateLimitedError",
    "Resolve",
    "RetentionGoneError",
    "RetryWith",
    "SSENotSupportedError",
    "SealedBatch",
    "SeqConflictError",
    "SequenceGapError",
    "Stage",
    "StaleEpochError",
    "Stop",
    "StoreProducer",
    "StreamClosedError",
    "StreamConsumedError",
    "StreamEvent",
    "StreamExistsError",
    "StreamNotFoundError",
    "StreamResponse",
    "SyncAcknowledgement",
    "SyncIdempotentProducer",
    "UnauthorizedError",
    "Wait",
    "astream",
    "stream",
]
