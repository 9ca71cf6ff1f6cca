"""Who is measured by `benchmarks/server.py`, and with what."""
