"""The role ``src``: a link from a page to the code, ``:src:`imgbackend.disks.create:cache```.

Each module that is linked to gets a page of its own.  A name that the module does not define fails the build.
"""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst.states import Inliner
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.application import Sphinx

_PAGES = "_source"


def _file_of(module: str) -> Path:
    """Where a module is, by its dotted name."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"there is no module {module}")
    return Path(spec.origin)


def _line_of(file: Path, name: str) -> int:
    """The line in which a module defines ``function``, ``Class`` or ``Class.method``."""
    body: list[ast.stmt] = ast.parse(file.read_text()).body
    line = 1
    for part in filter(None, name.split(".")):
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == part:
                body, line = node.body, node.lineno
                break
        else:
            raise ValueError(f"{file.name} does not define {name}")
    return line


def _role(
    _name: str, rawtext: str, text: str, lineno: int, inliner: Inliner, _options: Any = None, _content: Any = None
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    module, _, name = text.partition(":")
    try:
        line = _line_of(_file_of(module), name)
    except (ImportError, ValueError) as exc:
        message = inliner.reporter.error(str(exc), line=lineno)
        return [inliner.problematic(rawtext, rawtext, message)], [message]
    settings = inliner.document.settings
    depth = settings.env.docname.count("/")
    settings.env.app.linked_modules.add(module)
    target = "../" * depth + f"{_PAGES}/{module}.html#line-{line}"
    shown = f"{module.rpartition('.')[2]}.{name}" if name else module
    return [nodes.reference(rawtext, "", nodes.literal(text=shown), refuri=target)], []


def _pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each module that is linked to."""
    for module in sorted(app.linked_modules):  # type: ignore[attr-defined]  # ours, set below
        formatter: HtmlFormatter[str] = HtmlFormatter(lineanchors="line", linenos="inline")
        body = highlight(_file_of(module).read_text(), PythonLexer(), formatter)
        yield f"{_PAGES}/{module}", {"title": module, "body": f"<h1>{module}</h1>{body}"}, "page.html"


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.linked_modules = set()  # type: ignore[attr-defined]  # for as long as one build takes
    app.add_role("src", _role)
    app.connect("html-collect-pages", _pages)
    return {"parallel_read_safe": False}
