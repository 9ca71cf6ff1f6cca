"""Configurations for tests: a small valid one, and loading a text as the command line does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ds_gateway.cli.configuration import check_mappings
from ds_gateway.config import loader
from ds_gateway.config.mqtt import DeviceSettings
from ds_gateway.config.places import Machine
from ds_gateway.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ds_gateway.config.loader import Loaded

MACHINE: Final = Machine(host_name="box-1", is_root=False)

MINIMAL: Final = """\
gateway: {id: line-7}
data_dir: /var/lib/example
server: {url: "http://127.0.0.1:4437/v1/stream"}
mqtt:
  hall:
    url: mqtt://127.0.0.1
    devices:
      - topic: sensors/{hall}/{sensor}
"""


def load_text(
    folder: Path, text: str, environ: Mapping[str, str] | None = None, machine: Machine = MACHINE
) -> Loaded:
    """Load this text from a file in the folder, with nothing of this process's environment."""
    file = folder / "gateway.yaml"
    file.write_text(text, encoding="utf-8")
    return loader.load(file, environ or {}, more_checks=(check_mappings,), machine=machine)


def mistakes_in(
    folder: Path, text: str, environ: Mapping[str, str] | None = None, machine: Machine = MACHINE
) -> list[str]:
    """What is wrong with this text, one line a mistake, as ``line: key: message``; empty if nothing is."""
    try:
        load_text(folder, text, environ, machine)
    except ConfigError as error:
        return [str(problem).removeprefix(f"{folder}/gateway.yaml:") for problem in error.problems]
    return []


def given_device(values: Mapping[str, Any]) -> DeviceSettings:
    """The settings of one entry of ``devices``."""
    return DeviceSettings.model_validate(dict(values))
