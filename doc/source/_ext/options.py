"""The directive ``backend-options``: the options of one driver, from the code."""

from docutils import nodes
from oslo_config import cfg
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from imgbackend.config import options, plugins


class BackendOptions(SphinxDirective):
    """A list of a driver's own options, with their defaults and what Nova calls them."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The list, in the driver's order."""
        name = self.arguments[0]
        own = {option.name for option in plugins.load_driver(name).opts}
        told = nodes.definition_list()
        for option in options.backend_opts(name, name, plugins.load_driver(name).opts):
            if option.name in own:
                told += self._item(option)
        return [told]

    def _item(self, option: cfg.Opt) -> nodes.definition_list_item:
        term = nodes.term("", "", nodes.literal(text=option.name))
        default = option.default
        if default is not None and default != "":
            term += nodes.Text(f", {str(default).lower() if isinstance(default, bool) else default} by default")
        if (choices := getattr(option.type, "choices", None)) is not None:
            term += nodes.Text(f", one of {', '.join(choices)}")
        text = nodes.paragraph(text=option.help or "")
        for old in option.deprecated_opts:
            text += [nodes.Text("  In Nova: "), nodes.literal(text=f"[{old.group}] {old.name}"), nodes.Text(".")]
        return nodes.definition_list_item("", term, nodes.definition("", text))


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("backend-options", BackendOptions)
    return {"parallel_read_safe": True}
