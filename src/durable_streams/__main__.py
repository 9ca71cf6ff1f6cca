"""``python -m durable_streams``: the command line."""

from durable_streams.cli import main

main()
