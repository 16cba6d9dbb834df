"""The directive ``results``: a file of measurements, where somebody has made one."""

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Results(SphinxDirective):
    """The reStructuredText of a file beside the page; a sentence where there is none."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """What the file has."""
        path = Path(self.env.srcdir) / self.arguments[0]
        self.env.note_dependency(str(path))
        if not path.exists():
            return [nodes.paragraph(text="Nothing was measured for this version yet.")]
        return self.parse_text_to_nodes(path.read_text(), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("results", Results)
    return {"parallel_read_safe": True}
