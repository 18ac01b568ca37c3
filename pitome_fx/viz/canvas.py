"""What all pictures share: figures, panels, and the colours of groups."""

from __future__ import annotations

import colorsys
import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pitome_fx.frontends.tokens import MergedTokens
from pitome_fx.viz.inputs import where

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pitome_fx.viz.picture import Picture

INK = "#7f7f7f"
"""Of texts and lines: it can be read on white and on black."""
ALONE = (0.83, 0.83, 0.83)
"""Colour of a token that is a group by itself, where groups have colours of their own."""
BLUE, GOLDEN = 0.58, (math.sqrt(5) - 1) / 2
"""The first hue, and the way to the next, by which those in a row lie far apart."""

Colour = tuple[float, float, float]


def picture(width: float, height: float) -> Picture:
    """An empty figure, in inches.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from pitome_fx.viz.picture import Picture
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ImportError("pictures need matplotlib: pip install 'pitome-fx[viz]'") from error
    return Picture(width, height)


def panels(count: int, columns: int, width: float, height: float) -> tuple[Picture, list[Axes]]:
    """A figure of panels in rows, each of that size in inches, and their axes."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = picture(columns * width, rows * height)
    places = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for place in places[count:]:
        place.remove()
    return figure, places[:count]


def plain(axes: Axes) -> None:
    """No ticks and no frame: what is drawn says all."""
    axes.set_axis_off()


def inked(axes: Axes) -> None:
    """A chart with two axes, in grey on nothing."""
    axes.set_facecolor("none")
    axes.tick_params(which="both", colors=INK, labelsize="small")
    for side, line in axes.spines.items():
        line.set_color(INK)
        line.set_visible(side in ("left", "bottom"))


def titled(axes: Axes, text: str) -> None:
    """A title above it."""
    axes.set_title(text, color=INK, fontsize="small")


def title_of(merge: MergedTokens) -> str:
    """Where a merge is and what became of its tokens."""
    return f"{where(merge)}\n{merge.tokens_before} → {merge.tokens_after} tokens"


def colours(groups: Tensor) -> list[Colour]:
    """A colour for each of (M,) tokens: that of its group, and grey for tokens that are alone.

    It comes of the first member, so that a group keeps it while it grows.
    """
    members: dict[int, list[int]] = {}
    for token, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(token)
    return [
        hue(members[group][0]) if len(members[group]) > 1 else ALONE for group in groups.tolist()
    ]


def hue(number: int) -> Colour:
    """A colour that is unlike those of the numbers around it, and light enough for black text."""
    return colorsys.hls_to_rgb((BLUE + number * GOLDEN) % 1, 0.72 + 0.07 * (number % 3 - 1), 0.7)


def font(**more: Any) -> dict[str, Any]:
    """Keyword arguments of a text in grey."""
    return {"color": INK, "fontsize": "small", **more}
