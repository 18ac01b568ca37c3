"""Runs a notebook, and keeps of what it shows only what is the same on every machine.

    python -m tests.support.notebook examples/tour.ipynb      # runs it and writes it back

Cells tagged ``times`` show what a clock said: they run, and their outputs are not kept.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

TIMES = "times"
SECONDS = 240
"""That a cell may take."""


def run(file: Path) -> NotebookNode:
    """The notebook with what its cells show now; it runs in its folder.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    notebook = nbformat.read(file, as_version=4)
    folder = {"metadata": {"path": str(file.parent)}}
    return NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources=folder, record_timing=False
    ).execute()


def kept(notebook: NotebookNode) -> NotebookNode:
    """The notebook without the outputs of the tagged cells."""
    for cell in notebook.cells:
        if is_timed(cell):
            cell.outputs = []
    return notebook


def is_timed(cell: NotebookNode) -> bool:
    """Is the cell's output one of a clock?"""
    return TIMES in cell.metadata.get("tags", ())


def text_of(cell: NotebookNode) -> str:
    """All that a cell shows as text."""
    shown = (out.get("text") or out.get("data", {}).get("text/plain", "") for out in cell.outputs)
    return "\n".join(shown)


def without_numbers(text: str) -> str:
    """Words and counts of tokens: other numbers are the machine's, and widths of tables follow."""
    text = re.sub(r"(\d+ → \d+)|\d+(\.\d+)?(e[+-]\d+)?", lambda found: found[1] or "#", text)
    return " ".join(re.sub("[━─]+", " ", text).split())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    path = parser.parse_args().file
    nbformat.write(kept(run(path)), path)
