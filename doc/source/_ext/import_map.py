"""The map of the code: its packages from the top down, and who imports whom, drawn from the imports.

The directive ``import-map`` puts it on a page; ``python doc/source/_ext/import_map.py >map.svg`` draws it alone.
The order is that of ``.importlinter``, which holds it.
"""

import ast
import configparser
import importlib
import sys
from collections import Counter
from dataclasses import dataclass
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

_ROOT = Path(__file__).parents[3]
_TOP = "imgbackend"
_ROW, _BOX, _LEFT, _WIDTH = 42, 30, 190, 960
_EVERYWHERE = frozenset({"types", "errors", "sizes"})
"""What everybody imports: arcs to these would hide the others."""


@dataclass(frozen=True)
class Room:
    """A package, or a module at the top of the tree."""

    name: str
    purpose: str
    """The first sentence of its docstring."""
    modules: int


def order() -> list[str]:
    """The names of the rooms, from the top down."""
    linter = configparser.ConfigParser()
    linter.read(_ROOT / ".importlinter")
    return linter["importlinter:contract:order"]["layers"].split()


def rooms() -> list[Room]:
    """All rooms, from the top down."""
    found = []
    for name in order():
        doc = (importlib.import_module(f"{_TOP}.{name}").__doc__ or "").split("\n\n")[0].split(". ")[0]
        folder = _ROOT / _TOP / name
        count = len([path for path in folder.rglob("*.py") if path.name != "__init__.py"]) if folder.is_dir() else 1
        found.append(Room(name=name, purpose=" ".join(doc.split()).rstrip(".").replace("``", ""), modules=count))
    return found


def imports() -> Counter[tuple[str, str]]:
    """How many modules of one room import from another, but for what everybody imports.

    Imports for type checkers count.
    """
    found: Counter[tuple[str, str]] = Counter()
    for room in order():
        folder = _ROOT / _TOP / room
        for path in folder.rglob("*.py") if folder.is_dir() else [folder.with_suffix(".py")]:
            found.update({(room, other) for other in _imported(path) - _EVERYWHERE if other != room})
    return found


def _imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == _TOP:
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{_TOP}."):
            names.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            names.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith(f"{_TOP}."))
    return names & set(order())


def drawn() -> str:
    """The map as SVG: a row for each room, and an arc from each to those that it imports from.

    An arc is the wider, the more modules import; one that runs back up is red.
    """
    listed = rooms()
    row = {room.name: number for number, room in enumerate(listed)}
    height = len(listed) * _ROW + 20
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        'aria-label="The packages of imgbackend and their imports" font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for (importer, imported), count in sorted(imports().items()):
        lines.append(_arc(importer, imported, row[importer], row[imported], count))
    for room in listed:
        lines += _box(room, row[room.name])
    return "\n".join([*lines, "</svg>"])


def _arc(importer: str, imported: str, start: int, end: int, count: int) -> str:
    """From a box's left side out and down to another's."""
    first, last = start * _ROW + 10 + _BOX * 0.65, end * _ROW + 10 + _BOX * 0.35
    out = _LEFT - 20 - abs(end - start) * 15
    colour = "#5a7fa6" if end > start else "#c0392b"
    return (
        f'<path d="M{_LEFT} {first:.0f} C{out} {first:.0f} {out} {last:.0f} {_LEFT} {last:.0f}" fill="none" '
        f'stroke="{colour}" stroke-opacity="0.55" stroke-width="{min(1 + count / 6, 5):.1f}">'
        f"<title>{importer} imports {imported} in {count} of its modules</title></path>"
    )


def _box(room: Room, number: int) -> list[str]:
    top = number * _ROW + 10
    middle = top + _BOX / 2 + 5
    count = "1 module" if room.modules == 1 else f"{room.modules} modules"
    return [
        f'<rect x="{_LEFT}" y="{top}" width="96" height="{_BOX}" rx="5" fill="#eaf1f8" stroke="#5a7fa6"/>',
        f'<text x="{_LEFT + 48}" y="{middle}" text-anchor="middle" font-weight="bold">{room.name}</text>',
        f'<text x="{_LEFT + 108}" y="{middle}">{escape(room.purpose)} <tspan fill="#6b7a88">({count})</tspan></text>',
    ]


class ImportMap(SphinxDirective):
    """The map, in the page."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        """As SVG."""
        return [nodes.raw("", drawn(), format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("import-map", ImportMap)
    return {"parallel_read_safe": True}


if __name__ == "__main__":
    sys.stdout.write(drawn() + "\n")
