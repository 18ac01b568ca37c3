"""A picture of measured times (extra ``viz``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pitome_fx.measuring.timing import Spread
from pitome_fx.viz.canvas import INK, font, hue, inked, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def bars(names: Sequence[str], times: Sequence[Spread], labels: Sequence[str]) -> Figure:
    """A bar for each time: milliseconds, with quartiles; the first is what others are beside.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = picture(8, 0.55 * len(names) + 1)
    axes = figure.subplots()
    places = list(range(len(names)))
    medians = [time.median * 1e3 for time in times]
    spread = [
        [(time.median - time.low) * 1e3 for time in times],
        [(time.high - time.median) * 1e3 for time in times],
    ]
    colours = [INK, *[hue(0)] * (len(names) - 1)]
    drawn = axes.barh(places, medians, xerr=spread, color=colours, ecolor=INK, capsize=3)
    axes.bar_label(drawn, labels, label_type="center", color="white")
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlabel("ms per call, median and quartiles", **font())
    inked(axes)
    return figure
