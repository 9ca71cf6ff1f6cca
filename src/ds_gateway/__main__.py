"""``python -m ds_gateway`` is ``ds-gateway``."""

from __future__ import annotations

from ds_gateway.cli import main

if __name__ == "__main__":
    main()
