"""``python -m durable_streams`` is ``durable-streams``."""

from __future__ import annotations

from durable_streams.cli import main

if __name__ == "__main__":
    main()
