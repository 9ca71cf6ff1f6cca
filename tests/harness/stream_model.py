"""A stream server as a value: PROTOCOL section 5.2.1, and everything that may go wrong with a server.

A stream's messages are small numbers here; who uses it knows what they stand for. The other models of servers in
this folder are objects that live; this one is a value, so that a test can visit every state it can be in.
"""

from __future__ import annotations

from typing import NamedTuple

Headers = tuple[tuple[str, str], ...]
PROOF: Headers = (("stream-seq", "0"),)
"""A header that only a stream server sends."""


class Said(NamedTuple):
    """An answer: status and headers."""

    status: int
    headers: Headers = ()


class Manners(NamedTuple):
    """What the server refuses, and whether its refusals can be told from a proxy's."""

    proved: bool = True
    max_messages: int = 99
    """A batch with more is too large."""
    heavy: frozenset[int] = frozenset()
    """Messages that are too large alone."""
    poison: frozenset[int] = frozenset()
    """Messages that make a batch malformed."""


class StreamModel(NamedTuple):
    """One stream, and what the server knows about the one producer."""

    exists: bool = False
    closed: bool = False
    known: bool = False
    epoch: int = 0
    last: int = -1
    first: int = 0
    """Messages before this one are expired; they stay in ``log`` for the audit."""
    log: tuple[int, ...] = ()
    narrow: bool = False
    """Whether a batch of more than one message is too large."""

    @property
    def tail(self) -> str:
        """Where it ends."""
        return f"{len(self.log):04d}"

    def head(self, manners: Manners) -> Said:
        """Answer HEAD."""
        if not self.exists:
            return self.refusal(404, manners)
        closed: Headers = (("stream-closed", "true"),) if self.closed else ()
        return Said(200, (("stream-next-offset", self.tail), ("content-type", "application/json"), *closed))

    @staticmethod
    def refusal(status: int, manners: Manners) -> Said:
        """A refusal, with or without a proof that it is the stream server's."""
        return Said(status, PROOF if manners.proved else (("content-type", "text/plain"),))

    def post(self, epoch: int, seq: int, messages: tuple[int, ...], manners: Manners) -> tuple[StreamModel, Said]:
        """Answer one POST, as often as it arrives."""
        if not self.exists:
            return self, self.refusal(404, manners)
        most = 1 if self.narrow else manners.max_messages
        if len(messages) > most or manners.heavy.intersection(messages):
            return self, self.refusal(413, manners)
        if manners.poison.intersection(messages):
            return self, self.refusal(400, manners)
        if self.closed:
            return self, Said(409, (("stream-closed", "true"), ("stream-next-offset", self.tail)))
        last = self.last if self.known else -1
        if self.known and epoch < self.epoch:
            return self, Said(403, (("producer-epoch", str(self.epoch)),))
        if self.known and epoch > self.epoch:
            if seq != 0:
                return self, Said(400, (("producer-epoch", str(self.epoch)),))
            last = -1
        if seq <= last:
            return self, Said(204, (("producer-epoch", str(epoch)), ("producer-seq", str(last))))
        if seq > last + 1:
            expected = ("producer-expected-seq", str(last + 1))
            return self, Said(409, (expected, ("producer-received-seq", str(seq))))
        after = self._replace(known=True, epoch=epoch, last=seq, log=self.log + messages)
        echo = (("producer-epoch", str(epoch)), ("producer-seq", str(seq)))
        return after, Said(200, (*echo, ("stream-next-offset", after.tail)))

    def read(self, offset: str, until: int) -> tuple[Said, tuple[int, ...]]:
        """Answer GET with a page that ends before message ``until``, or one message later than it begins."""
        start = self.first if offset == "-1" else int(offset)
        if not self.exists:
            return Said(404, PROOF), ()
        if start < self.first:
            return Said(410, PROOF), ()
        end = min(max(until, start + 1), len(self.log))
        return Said(200, (("stream-next-offset", f"{end:04d}"),)), self.log[start:end]
