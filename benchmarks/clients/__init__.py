"""The parts of `benchmarks/client.py`: those who are measured, each a process, and those who measure them."""
