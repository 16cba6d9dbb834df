"""The directive ``imgbackend-commands``: the help of every command, from the code."""

import argparse
import os
from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from imgbackend.cli.app import App
from imgbackend.cli.commands import TABLE
from imgbackend.cli.signals import Signals

_WIDTH = 100


def _parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    app = App(Signals())
    yield "imgbackend", app.parser
    for name in TABLE:
        factory, _, _ = app.command_manager.find_command(name.split())
        yield f"imgbackend {name}", factory(app, None).get_parser(f"imgbackend {name}")


class Commands(SphinxDirective):
    """A section for each command, with what its ``--help`` prints."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        """The sections, in the order of the table of commands."""
        os.environ["COLUMNS"] = str(_WIDTH)
        made: list[nodes.Node] = []
        for name, parser in _parsers():
            section = nodes.section(ids=[nodes.make_id(name)])
            section += nodes.title(text=name)
            section += nodes.literal_block(text=parser.format_help(), language="text")
            made.append(section)
        return made


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("imgbackend-commands", Commands)
    return {"parallel_read_safe": True}
