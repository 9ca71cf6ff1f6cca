"""Client, idempotent producer and server for the Durable Streams protocol.

The guide is docs/client.md. Reading a stream as it grows:

    from durable_streams import stream

    with stream("https://streams.example.com/readings") as res:
        for reading in res.iter_json():
            print(reading, res.offset)
"""

from durable_streams._acknowledgements import Acknowledgement, Appended, SyncAcknowledgement
from durable_streams._async import AsyncDurableStream
from durable_streams._async_producer import IdempotentProducer
from durable_streams._async_response import AsyncItemIterator, AsyncStreamResponse, astream
from durable_streams._pull import (
    BeginRepair,
    Command,
    Halt,
    Policy,
    PostBatch,
    Pull,
    Resolve,
    SaveRepair,
    SetAside,
    Stage,
    Stop,
    Wait,
)
from durable_streams._retry import Backoff, RandomSource
from durable_streams._sqlite_store import SqliteProducerStore
from durable_streams._store import (
    Finder,
    Presence,
    ProducerState,
    ProducerStore,
    RepairStore,
    SealedBatch,
    Survey,
)
from durable_streams._store_messages import is_control_message
from durable_streams._store_producer import StoreProducer
from durable_streams._sync import DurableStream
from durable_streams._sync_producer import SyncIdempotentProducer
from durable_streams._sync_response import ItemIterator, StreamResponse, stream
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
    ProducerStoreDamagedError,
    ProducerStoreError,
    ProducerStoreLockedError,
    RateLimitedError,
    RetentionGoneError,
    SeqConflictError,
    SequenceGapError,
    SSEEncodingError,
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
    "AsyncItemIterator",
    "AsyncStreamResponse",
    "Backoff",
    "BadRequestError",
    "BeginRepair",
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
    "ItemIterator",
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
    "ProducerStoreDamagedError",
    "ProducerStoreError",
    "ProducerStoreLockedError",
    "Pull",
    "RandomSource",
    "RateLimitedError",
    "RepairStore",
    "Resolve",
    "RetentionGoneError",
    "RetryWith",
    "SSEEncodingError",
    "SSENotSupportedError",
    "SaveRepair",
    "SealedBatch",
    "SeqConflictError",
    "SequenceGapError",
    "SetAside",
    "SqliteProducerStore",
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
    "Survey",
    "SyncAcknowledgement",
    "SyncIdempotentProducer",
    "UnauthorizedError",
    "Wait",
    "astream",
    "is_control_message",
    "stream",
]
