"""How Sphinx builds this documentation."""

import sys
from pathlib import Path

_HERE = Path(__file__).parent
sys.path.insert(0, str(_HERE / "_ext"))

project = "imgbackend"
author = "The imgbackend developers"
project_copyright = author
release = version = (_HERE.parents[1] / "imgbackend" / "VERSION").read_text().strip()

extensions = ["sphinx.ext.autodoc", "oslo_config.sphinxext", "commands", "import_map", "options", "results", "sources"]
exclude_patterns: list[str] = []

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}

# A reference to something of ours must lead somewhere; the words of other libraries
# are not looked up, for the documentation is built without a network.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!imgbackend\b).*"),
    (r"py:.*", r"imgbackend\.driver\.\w+\.\w*BackendT"),  # type variables have no place to lead to
    (
        r"py:class",
        r"imgbackend\.(bases\.store\.Bases|state\.manifests\.Manifest|system\.space\.Quota)",
    ),  # the engine's own
    (r"py:class", r"imgbackend\.cache\.(ports\.Ports|usage\.DomainFile)"),
    (r"py:.*", r"imgbackend\.testing\.(trial\.Trial|place\.BackendT)"),  # the kit's own
]

html_theme = "alabaster"
html_theme_options = {
    "description": "Turns images of virtual machines into disks, on any storage",
    "fixed_sidebar": True,
    "page_width": "1100px",
}
html_show_copyright = False
