"""The house stays in order: how large things are, what is never written.  Who imports whom is in ``.importlinter``."""

import ast
import functools
import os
import re
import shutil
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
_TREES = {"imgbackend": _ROOT / "imgbackend"} | {
    path.name: path for path in sorted((_ROOT / "backends").iterdir()) if path.name.startswith("imgbackend_")
}
_TREES["imgbackend_btrfs"] = _ROOT / "doc/examples/imgbackend-btrfs/imgbackend_btrfs"

HEAVY = (
    *("cliff", "glanceclient", "keystoneauth1", "libvirt", "prometheus_client", "pycdlib", "rados", "rbd"),
    *("requests", "rich", "urllib3"),
)
"""Libraries that cost start-up time or may be absent: one module imports each, when it is first needed."""

_MAX_MODULE, _MAX_FUNCTION = 400, 40
_MAX_DRIVER = {"imgbackend_lvm": 2700, "imgbackend_rbd": 3300}
"""Lines of a driver with the commands or the library that it brings; others have 200."""


@dataclass(frozen=True)
class Import:
    importer: str
    line: int
    module: str
    """The module that is imported; for ``from package import module`` that module."""

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.module}"


def _name_of(path: Path, top: str, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join((top, *(part for part in parts if part != "__init__")))


@functools.cache
def _modules() -> dict[str, Path]:
    return {_name_of(path, top, root): path for top, root in _TREES.items() for path in sorted(root.rglob("*.py"))}


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def _is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _import_nodes(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    if isinstance(node, ast.If) and _is_for_types_only(node):
        children: list[ast.stmt] = node.orelse
        yield from (found for child in children for found in _import_nodes(child))
        return
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    for below in ast.iter_child_nodes(node):
        yield from _import_nodes(below)


def _imports(name: str, path: Path) -> Iterator[Import]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in _import_nodes(_tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, node.lineno, alias.name)
            continue
        source = node.module or ""
        if node.level:
            up = package.split(".")[: len(package.split(".")) - node.level + 1]
            source = ".".join([*up, source] if source else up)
        for alias in node.names:
            inner = f"{source}.{alias.name}"
            yield Import(name, node.lineno, inner if inner in _modules() else source)


@functools.cache
def _all_imports() -> tuple[Import, ...]:
    return tuple(found for name, path in _modules().items() for found in _imports(name, path))


def _is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def test_no_import_goes_in_a_circle() -> None:
    edges: dict[str, set[str]] = {name: set() for name in _modules()}
    for found in _all_imports():
        if found.module in edges and found.module != found.importer:
            edges[found.importer].add(found.module)
    while leaves := [name for name, targets in edges.items() if not targets]:
        for leaf in leaves:
            del edges[leaf]
        for targets in edges.values():
            targets.difference_update(leaves)
    assert edges == {}


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("imgbackend/state/records.py", "from imgbackend.disks import create"),
        ("imgbackend/system/files.py", "def f() -> None:\n    from imgbackend.system import locks"),
        ("backends/imgbackend_raw/driver.py", "from imgbackend.state import records"),
        ("imgbackend/engine.py", "if False:\n    import imgbackend_raw"),
    ],
)
def test_import_that_runs_up_or_in_a_circle_is_refused(tmp_path: Path, module: str, line: str) -> None:
    for tree in (*_TREES.values(), _ROOT / ".importlinter"):
        copy = tmp_path / tree.relative_to(_ROOT)
        shutil.copytree(tree, copy) if tree.is_dir() else shutil.copy(tree, copy)
    with (tmp_path / module).open("a") as file:
        file.write(f"\n{line}\n")
    path = f"{tmp_path}:{tmp_path}/backends:{tmp_path}/doc/examples/imgbackend-btrfs"
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--no-cache", "--no-logo"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert " 0 broken" not in done.stdout


@pytest.mark.parametrize("library", HEAVY)
def test_heavy_library_has_one_importing_module(library: str) -> None:
    importers = {found.importer for found in _all_imports() if _is_in(found.module, library)}
    if library == "cliff":
        assert all(_is_in(importer, "imgbackend.cli") for importer in importers)
    else:
        assert len(importers) <= 1, sorted(importers)


def test_global_configuration_is_used_nowhere() -> None:
    uses = [
        f"{name}:{node.lineno}"
        for name, path in _modules().items()
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Attribute) and node.attr == "CONF"
    ]
    assert uses == []


def test_no_command_goes_through_a_shell() -> None:
    wrong = []
    for name, path in _modules().items():
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.keyword) and node.arg == "shell":
                wrong.append(f"{name}:{node.value.lineno} shell=")
            if isinstance(node, ast.Attribute) and node.attr in ("system", "popen", "getoutput", "getstatusoutput"):
                wrong.append(f"{name}:{node.lineno} {node.attr}")
    assert wrong == []


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_modules_are_short() -> None:
    assert {name: _lines(path) for name, path in _modules().items() if _lines(path) > _MAX_MODULE} == {}


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_functions_are_short() -> None:
    long = {
        f"{name}:{node.lineno} {node.name}": _body_lines(node)
        for name, path in _modules().items()
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _body_lines(node) > _MAX_FUNCTION
    }
    assert long == {}


@pytest.mark.parametrize("driver", [name for name in _TREES if name != "imgbackend"])
def test_driver_is_small(driver: str) -> None:
    assert sum(_lines(path) for path in _TREES[driver].rglob("*.py")) <= _MAX_DRIVER.get(driver, 200)


def test_names_say_what_things_are() -> None:
    wrong = [name for name in _modules() if name.rpartition(".")[2] in ("utils", "util", "helpers", "misc", "common")]
    for name, path in _modules().items():
        for node in ast.walk(_tree(path)):
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if re.search(r"(manager|helper)\Z", node.name, re.IGNORECASE):
                wrong.append(f"{name}:{node.lineno} {node.name}")
    assert wrong == []


def _written() -> Iterator[Path]:
    """Every Python file that people write here."""
    for folder in ("imgbackend", "backends", "tests", "benchmarks", "doc"):
        yield from (
            path for path in sorted((_ROOT / folder).rglob("*.py")) if "build" not in path.relative_to(_ROOT).parts
        )


_IGNORE = re.compile(r"#\s*(?:type:\s*ignore|noqa)\b")
_CODES = r"(?:type: ignore\[[a-z-]+(?:, ?[a-z-]+)*\]|noqa: [A-Z]+[0-9]+(?:, ?[A-Z]+[0-9]+)*)"
_GOOD_IGNORE = re.compile(rf"#\s*{_CODES}\W+\w[^#]{{5,}}")


def test_every_ignore_has_a_code_and_a_reason() -> None:
    wrong = []
    for path in _written():
        with tokenize.open(path) as file:
            for token in tokenize.generate_tokens(file.readline):
                if token.type != tokenize.COMMENT:
                    continue
                if len(_IGNORE.findall(token.string)) != len(_GOOD_IGNORE.findall(token.string)):
                    wrong.append(f"{path.relative_to(_ROOT)}:{token.start[0]} {token.string}")
    assert wrong == []


_LAZY = (
    *("glanceclient", "keystoneauth1", "libvirt", "oslo_config", "prometheus_client", "pycdlib", "rados", "rbd"),
    *("requests", "rich"),
)


@pytest.mark.parametrize("program", ["import imgbackend", "from imgbackend.cli.main import main; main(['--help'])"])
def test_start_loads_nothing_heavy(program: str) -> None:
    """Neither ``import imgbackend`` nor ``imgbackend --help`` waits for a library that it does not use."""
    told = f"""
import atexit, sys
atexit.register(lambda: print(*sorted(set(sys.modules) & set({_LAZY!r})), sep=",", file=sys.stderr))
{program}
"""
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""
