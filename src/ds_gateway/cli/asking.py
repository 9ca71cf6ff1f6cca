"""Whom commands about the journal ask."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ds_gateway import control
from ds_gateway.config.loader import find_control_sockets
from ds_gateway.inspecting import inspect

if TYPE_CHECKING:
    from collections.abc import Mapping

_ANSWER_SECONDS: Final = 60.0


def ask_journal(config: Path | None, request: Mapping[str, Any]) -> dict[str, Any]:
    """The running gateway's answer about its journal; without one, what the journal itself says."""
    data_dir, sockets = find_control_sockets(config, os.environ)
    for path in sockets:
        try:
            return control.call(path, "journal", _ANSWER_SECONDS, **request)
        except control.NobodyThereError:
            continue
    return inspect(Path(data_dir), request)
