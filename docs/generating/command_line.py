"""``.. command-line::``: what ``python -m pitome_fx`` and each of its commands print as help."""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any
from unittest import mock

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from pitome_fx.cli.arguments import EPILOG, make_parser
from pitome_fx.cli.commands import COMMANDS

WIDTH = "88"
"""Columns of the terminal that the help is printed for."""


def help_of(*words: str) -> str:
    """What a command line prints with ``--help``."""
    printed = io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": WIDTH, "NO_COLOR": "1"}),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        make_parser().parse_args([*words, "--help"])
    return printed.getvalue()


class CommandLine(SphinxDirective):
    """A section for each command."""

    def run(self) -> list[nodes.Node]:
        """The nodes of all sections."""
        lines = _block(help_of())
        for name in COMMANDS:
            # The end is the same everywhere, and stands at the top already.
            own = help_of(name).replace(EPILOG.strip(), "")
            lines += [f"{name}", "-" * len(name), "", *_block(own)]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def _block(text: str) -> list[str]:
    return [".. code-block:: text", "", *(f"   {line}" for line in text.rstrip().splitlines()), ""]


def setup(app: Sphinx) -> dict[str, Any]:
    """What Sphinx calls."""
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True}
