"""What a read takes in memory does not depend on how much it reads."""

from __future__ import annotations

import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from harness.stream_client import Front

MEGABYTE: Final = 1024 * 1024
BLOCK: Final = b",".join(b'{"n":%d,"text":"%s"}' % (n, b"x" * 80) for n in range(1000))
BLOCKS: Final = 200


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A JSON array of 200,000 messages in chunks, made on the way; counts the chunks that were taken."""

    def __init__(self, coding: str = "identity") -> None:
        self._coding = coding
        self.chunks = 0

    def __iter__(self) -> Iterator[bytes]:
        gzip = zlib.compressobj(1, wbits=31)
        for number in range(BLOCKS):
            self.chunks += 1
            chunk = (b"[" if number == 0 else b",") + BLOCK + (b"]" if number == BLOCKS - 1 else b"")
            if self._coding == "gzip":
                chunk = gzip.compress(chunk) + gzip.flush(
                    zlib.Z_FINISH if number == BLOCKS - 1 else zlib.Z_SYNC_FLUSH
                )
            yield chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk

    def client(self, front: Front) -> Any:
        """A client whose every answer has this body."""
        headers = {
            "content-type": "application/json",
            "content-encoding": self._coding,
            "stream-next-offset": "1",
            "stream-up-to-date": "true",
        }
        return front.client(httpx.MockTransport(lambda _: httpx.Response(200, headers=headers, stream=self)))


@pytest.mark.parametrize("method", ["iter_json", "iter_bytes", "iter_text"])
def test_items_come_out_while_a_response_arrives(front: Front, method: str) -> None:
    body = Body()
    client = body.client(front)
    with front.stream("http://streams.test/s", live=False, client=client) as response:
        front.take(getattr(response, method)(), 1)
        assert body.chunks < BLOCKS / 10
    front.close(client)


@pytest.mark.parametrize("coding", ["identity", "gzip"])
@pytest.mark.parametrize(("method", "at_once"), [("iter_json", 2000), ("iter_bytes", 1), ("iter_text", 1)])
def test_a_read_takes_a_fraction_of_what_it_reads(front: Front, method: str, at_once: int, coding: str) -> None:
    assert len(BLOCK) * BLOCKS > 18 * MEGABYTE
    client = Body(coding).client(front)
    with front.stream("http://streams.test/s", live=False, client=client) as response:
        items = getattr(response, method)()
        count = 0
        tracemalloc.start()
        try:
            while taken := len(front.take(items, at_once)):
                count += taken
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    front.close(client)
    assert peak_bytes < 7 * MEGABYTE
    assert count == 1000 * BLOCKS if method == "iter_json" else count > BLOCKS / 2
