"""What no program of ours does with what comes from outside: run it. Checked on the source text.

docs/threat-model.md refers to this. Ruff has rules of this kind, too, but each can be silenced at its line.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Final

import pytest

from harness.imports import SOURCE, read_sources

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

# Each reads objects that run code when they are read.
PICKLES: Final = frozenset(
    {"pickle", "_pickle", "cPickle", "dill", "marshal", "shelve", "jsonpickle", "cloudpickle"}
)
# Starting other programs, and evaluating text. `re.compile` and the like are methods, and are not meant.
FORBIDDEN_NAMES: Final = frozenset({"eval", "exec", "compile", "__import__", "breakpoint"})
FORBIDDEN_ATTRIBUTES: Final = frozenset({
    "os.system", "os.popen", "os.spawnv", "os.spawnl", "os.posix_spawn", "os.execl", "os.execvp", "os.execlp",
    "subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell", "pty.spawn",
    "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "tempfile.mktemp",
})  # fmt: skip
STARTERS: Final[Mapping[str, frozenset[str]]] = {
    # the demo's own parts, each by its path; journalctl, by its path and with the unit's name
    "subprocess": frozenset({"ds_gateway.demo.parts", "ds_gateway.cli.diag"}),
    "os.execv": frozenset({"ds_gateway.cli.run", "ds_gateway.demo.tied"}),  # itself anew; the demo's parts
}


def violations(folder: Path) -> list[str]:
    """Every forbidden import and call below the folder."""
    sources = read_sources(folder)
    found = [str(each) for each in sources.imports if each.imported.split(".")[0] in PICKLES]
    found += [
        str(each)
        for each in sources.imports
        if each.imported.split(".")[0] == "subprocess" and each.importer not in STARTERS["subprocess"]
    ]
    for module, path in sources.modules.items():
        for line, told in _calls(ast.parse(path.read_text(encoding="utf-8"))):
            if told not in STARTERS or module not in STARTERS[told]:
                found.append(f"{module} calls {told} (line {line})")
    return found


def _calls(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = _name(node.func)
        if name in FORBIDDEN_NAMES | FORBIDDEN_ATTRIBUTES or name in STARTERS:
            yield node.lineno, name
        for keyword in node.keywords:
            if keyword.arg == "shell" and ast.unparse(keyword.value) != "False":
                yield node.lineno, f"{name} with a shell"
            if keyword.arg == "verify" and ast.unparse(keyword.value) == "False":
                yield node.lineno, f"{name} without looking at certificates"


def _name(called: ast.expr) -> str:
    """``name`` or ``module.name``; what is called otherwise is nothing of these."""
    match called:
        case ast.Name(name):
            return name
        case ast.Attribute(ast.Name(module), name):
            return f"{module}.{name}"
    return ""


def test_nothing_of_it_is_in_the_source() -> None:
    assert violations(SOURCE) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import pickle\n", "m imports pickle (line 1)"),
        ("def f():\n    from marshal import loads\n", "m imports marshal (line 2)"),
        ("import subprocess\n", "m imports subprocess (line 1)"),
        ("x = eval('1')\n", "m calls eval (line 1)"),
        ("import os\nos.system('ls')\n", "m calls os.system (line 2)"),
        ("import os\nos.execv('/bin/sh', [])\n", "m calls os.execv (line 2)"),
        ("run('ls', shell=True)\n", "m calls run with a shell (line 1)"),
        ("import yaml\nyaml.load('x')\n", "m calls yaml.load (line 2)"),
        ("httpx.Client(verify=False)\n", "m calls httpx.Client without looking at certificates (line 1)"),
    ],
)
def test_it_would_be_noticed(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(text, encoding="utf-8")
    assert violations(tmp_path) == [told]
