"""Client, idempotent producer and server for the Durable Streams protocol."""

from durable_streams._pull import Command, Halt, Policy, PostBatch, Pull, Resolve, Stage, Stop, Wait
from durable_streams._store import Finder, Presence, ProducerState, ProducerStore, SealedBatch
from durable_streams._store_producer import StoreProducer

__all__ = [
    "Command",
    "Finder",
    "Halt",
    "Policy",
    "PostBatch",
    "Presence",
    "ProducerState",
    "ProducerStore",
    "Pull",
    "Resolve",
    "SealedBatch",
    "Stage",
    "Stop",
    "StoreProducer",
    "Wait",
]
