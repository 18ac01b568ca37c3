"""A figure that belongs to no window and shows itself in a notebook. Imports matplotlib."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.figure import Figure

RESOLUTION = 150
"""Dots per inch."""


class Picture(Figure):
    """A Figure that needs no pyplot to be shown, with a transparent background."""

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), dpi=RESOLUTION, facecolor="none")
        self.set_layout_engine("constrained", h_pad=0.08, w_pad=0.05)

    def savefig(self, fname: Any, **kwargs: Any) -> None:
        """As ``Figure.savefig``; transparent unless another background is asked for."""
        super().savefig(fname, **{"dpi": RESOLUTION, "facecolor": "none", **kwargs})

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()
