"""Tables as text."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table

WIDTH = 118


def printed(*parts: Table | str) -> str:
    """Tables and lines one below another, as they look in a terminal."""
    out = io.StringIO()
    # In a notebook rich would show and colour what it is given, whatever it is to write to.
    console = Console(
        file=out, width=WIDTH, highlight=False, force_jupyter=False, force_terminal=False
    )
    for part in parts:
        console.print(part, markup=False)
    return out.getvalue().rstrip()
