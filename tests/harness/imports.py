"""Who imports whom in ``src``, read from the source text without running it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.peers import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

SOURCE = REPOSITORY / "src"


@dataclass(frozen=True, order=True)
class Import:
    """One module imports another, wherever it does: at the top, in a function, for annotations only."""

    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer} imports {self.imported} (line {self.line})"


@dataclass(frozen=True)
class Sources:
    """The modules of a source folder, and the imports between them and to the outside."""

    modules: Mapping[str, Path]
    imports: tuple[Import, ...]

    def imports_within(self) -> Iterator[Import]:
        """Imports whose two ends are both in the folder."""
        return (each for each in self.imports if each.imported in self.modules)


def read_sources(folder: Path) -> Sources:
    """Parse every module below the folder. A name imported from a package is its module where there is one."""
    modules = {_module_name(path, folder): path for path in sorted(folder.rglob("*.py"))}
    found: set[Import] = set()
    for name, path in modules.items():
        tree = ast.parse(path.read_text(), filename=str(path))
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                found |= {Import(name, other, node.lineno) for other in _imported(node, package, modules)}
    return Sources(modules, tuple(sorted(found)))


def _module_name(path: Path, folder: Path) -> str:
    parts = path.relative_to(folder).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(node: ast.Import | ast.ImportFrom, package: str, modules: Mapping[str, Path]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        parents = package.split(".")
        parents = parents[: len(parents) - node.level + 1]
        base = ".".join([*parents, base] if base else parents)
    for alias in node.names:
        submodule = f"{base}.{alias.name}"
        yield submodule if submodule in modules else base
