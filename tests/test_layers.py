"""The house's rules on who may import whom, checked on the source text."""

from __future__ import annotations

from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Final

import pytest

from harness.imports import SOURCE, Sources, read_sources

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

# The parts of ds_gateway (modules, or packages of them), lowest first. A part imports from the lines above
# its own and from itself, never sideways. The architecture's number of each layer stands beside it.
LAYERS: Final = (
    ("errors",),  # 0
    ("records", "spans", "commands", "journald", "plain_files"),  # 0
    ("logs", "notify", "config", "clock", "signals", "liveness"),  # 1
    ("timekeeping", "times", "captures", "tls", "x509"),  # 1
    ("framing", "decoding", "certificates"),  # 1
    ("mapping",),  # 1
    ("journal", "mqtt", "serial_port"),  # 2
    ("uplink", "downlink", "embedded"),  # 3
    ("retarget",),  # 3
    ("dialogue",),  # 3
    ("resolver", "quarantine", "trying", "inspecting", "following", "exports"),  # 3
    ("transfer",),  # 3
    ("audit", "reloading"),  # 3
    ("rates",),  # 4
    ("status", "health"),  # 4
    ("metrics", "control", "tapping"),  # 4
    ("listening", "page"),  # 4
    ("assembly",),  # 5
    ("gateway",),  # 5
    ("demo",),  # 6
    ("cli",),  # 6
)

# The only modules that may import a library, as patterns.
IMPORTERS: Final[Mapping[str, tuple[str, ...]]] = {
    "cbor2": ("ds_gateway.decoding*",),
    "re2": ("ds_gateway.config.payloads",),
    "diskcache": ("ds_gateway.journal*",),
    "prometheus_client": ("ds_gateway.metrics*",),
    "paho": ("ds_gateway.mqtt*", "ds_gateway.demo.sensors"),
    "serial": ("ds_gateway.serial_port*",),
    "httpx": (
        "durable_streams._http*",  # where it is used; the others say in their signatures that they take a client
        "durable_streams._sync*",
        "durable_streams._async*",
        "durable_streams._store_producer",
        "durable_streams.in_process",
        "durable_streams.testing*",
        "ds_gateway.uplink*",
        "ds_gateway.embedded",
        "ds_gateway.retarget",  # its signatures
        "ds_gateway.audit*",  # its signatures
        "ds_gateway.dialogue",  # its signatures
        "ds_gateway.downlink*",  # its signatures
        "ds_gateway.gateway",  # its signatures
    ),
    "sqlite3": ("durable_streams._store_file", "durable_streams.server*", "ds_gateway.journal*"),
    "yaml": ("ds_gateway.config*",),
    "pydantic_settings": ("ds_gateway.config*",),
}

# The protocol's decisions: no transport, no threads, no clock, no randomness of their own.
PURE: Final = (
    "_wire",
    "_sse",
    "_retry",
    "_operations",
    "_reader",
    "_producer",
    "_pull",
    "_window",
    "_drain",
    "_store_messages",
)
IMPURE: Final = frozenset({"httpx", "asyncio", "threading", "time", "socket", "sqlite3"})

# What the stream server shares with the client: errors and header names, so that no bug is mirrored.
SHARED_WITH_SERVER: Final = ("durable_streams.errors", "durable_streams._wire")


@pytest.fixture(scope="module")
def sources() -> Sources:
    return read_sources(SOURCE)


def parts(sources: Sources) -> set[str]:
    return {part for module in sources.modules if (part := _part(module, "ds_gateway"))}


def upward_imports(sources: Sources) -> list[str]:
    """Imports between parts of ds_gateway that do not go down."""
    height = {part: index for index, layer in enumerate(LAYERS) for part in layer}
    found: list[str] = []
    for each in sources.imports_within():
        importer, imported = _part(each.importer, "ds_gateway"), _part(each.imported, "ds_gateway")
        if not {importer, imported} <= height.keys() or importer == imported:
            continue
        if height[imported] >= height[importer]:
            found.append(str(each))
    return found


def forbidden_libraries(sources: Sources) -> list[str]:
    """Imports of a library by a module that is not among its importers."""
    return [
        str(each)
        for each in sources.imports
        if (allowed := IMPORTERS.get(each.imported.split(".")[0])) is not None
        and not any(fnmatch(each.importer, pattern) for pattern in allowed)
    ]


def impure_imports(sources: Sources) -> list[str]:
    """Imports of what a pure module must not know."""
    return [
        str(each)
        for each in sources.imports
        if _part(each.importer, "durable_streams") in PURE and each.imported.split(".")[0] in IMPURE
    ]


def imports_across(sources: Sources, importer: str, imported: str, allowed: Iterable[str] = ()) -> list[str]:
    """Imports of one package by another, other than the allowed ones."""
    return [
        str(each)
        for each in sources.imports
        if _is_inside(each.importer, importer)
        and _is_inside(each.imported, imported)
        and not _is_inside(each.imported, importer)
        and each.imported not in allowed
    ]


def cycle(sources: Sources) -> list[str]:
    """One cycle of modules, or nothing; imports for annotations only are knots, too."""
    graph: dict[str, set[str]] = {module: set() for module in sources.modules}
    for each in sources.imports_within():
        if each.imported != each.importer:
            graph[each.importer].add(each.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _is_inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _part(module: str, package: str) -> str:
    """The name right below the package; empty for the package itself and for everything else."""
    return module.split(".")[1] if module.startswith(f"{package}.") else ""


class TestTheHouse:
    def test_every_part_of_the_gateway_has_a_layer(self, sources: Sources) -> None:
        listed = {part for layer in LAYERS for part in layer}
        assert parts(sources) - {"__main__"} <= listed, "give the new part a line in LAYERS"

    def test_imports_go_downward_only(self, sources: Sources) -> None:
        assert upward_imports(sources) == []

    def test_each_library_has_its_importers(self, sources: Sources) -> None:
        assert forbidden_libraries(sources) == []

    def test_the_protocols_core_is_pure(self, sources: Sources) -> None:
        assert impure_imports(sources) == []

    def test_durable_streams_knows_nothing_of_the_gateway(self, sources: Sources) -> None:
        assert imports_across(sources, "durable_streams", "ds_gateway") == []

    def test_the_server_shares_only_errors_and_header_names_with_the_client(self, sources: Sources) -> None:
        found = imports_across(sources, "durable_streams.server", "durable_streams", SHARED_WITH_SERVER)
        assert found == []

    def test_no_modules_import_each_other_in_a_circle(self, sources: Sources) -> None:
        assert cycle(sources) == []


class TestTheRulesCanBeBroken:
    """Each check finds a violation that was built for it."""

    @pytest.fixture
    def house(self, tmp_path: Path) -> Path:
        for package in ("ds_gateway", "ds_gateway/journal", "durable_streams", "durable_streams/server"):
            (tmp_path / package).mkdir()
            (tmp_path / package / "__init__.py").touch()
        return tmp_path

    def test_upward(self, house: Path) -> None:
        (house / "ds_gateway/cli.py").touch()
        (house / "ds_gateway/records.py").write_text(
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ds_gateway import cli\n"
        )
        assert upward_imports(read_sources(house)) == ["ds_gateway.records imports ds_gateway.cli (line 3)"]

    def test_sideways(self, house: Path) -> None:
        (house / "ds_gateway/mqtt.py").write_text("import ds_gateway.journal\n")
        assert upward_imports(read_sources(house)) == ["ds_gateway.mqtt imports ds_gateway.journal (line 1)"]

    def test_relative_and_inside_a_function(self, house: Path) -> None:
        (house / "ds_gateway/cli.py").touch()
        (house / "ds_gateway/journal/rows.py").write_text("def f():\n    from ..cli import main\n")
        assert upward_imports(read_sources(house)) == ["ds_gateway.journal.rows imports ds_gateway.cli (line 2)"]

    def test_library(self, house: Path) -> None:
        (house / "ds_gateway/mqtt.py").write_text("import paho.mqtt.client\nimport serial.tools\n")
        assert forbidden_libraries(read_sources(house)) == ["ds_gateway.mqtt imports serial.tools (line 2)"]

    def test_impure(self, house: Path) -> None:
        (house / "durable_streams/_retry.py").write_text("from time import monotonic\nimport random\n")
        assert impure_imports(read_sources(house)) == ["durable_streams._retry imports time (line 1)"]

    def test_across(self, house: Path) -> None:
        (house / "durable_streams/_wire.py").write_text("import ds_gateway\n")
        (house / "durable_streams/errors.py").touch()
        (house / "durable_streams/server/app.py").write_text(
            "from durable_streams import errors, _wire\nimport durable_streams.server\nimport durable_streams\n"
        )
        sources = read_sources(house)
        assert imports_across(sources, "durable_streams", "ds_gateway") == [
            "durable_streams._wire imports ds_gateway (line 1)"
        ]
        assert imports_across(sources, "durable_streams.server", "durable_streams", SHARED_WITH_SERVER) == [
            "durable_streams.server.app imports durable_streams (line 3)"
        ]

    def test_circle(self, house: Path) -> None:
        (house / "ds_gateway/journal/rows.py").write_text("from ds_gateway.journal import plan\n")
        (house / "ds_gateway/journal/plan.py").write_text("from ds_gateway.journal.rows import x\n")
        assert {"ds_gateway.journal.rows", "ds_gateway.journal.plan"} == set(cycle(read_sources(house)))
