"""``python -m ds_gateway``: the command line."""

from ds_gateway.cli import main

main()
