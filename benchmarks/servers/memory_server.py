"""Our server over a store in memory: `durable-streams serve` has the durable one only.

Prints its URL; ends when standard input does.
"""

from __future__ import annotations

import sys

from durable_streams.server import MemoryStore, ServerThread, StreamApp


def main() -> None:
    server = ServerThread(StreamApp(MemoryStore()))
    server.start()
    print(server.listen(), flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
