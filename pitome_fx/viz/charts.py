"""Merging in numbers: sizes of groups, tokens over the blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from pitome_fx.viz.canvas import INK, font, hue, inked, panels, picture, title_of, titled
from pitome_fx.viz.inputs import Merges, checked_item, listed

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sizes(merges: Merges, *, item: int | None = None, columns: int = 4) -> Figure:
    """For each merge how many groups there are of each size, both in powers of two and of ten.

    Args:
        merges: as ``pitome_fx.tokens`` returns them, or some of them.
        item: one of the batch; None for the mean over all.
        columns: panels in a row.

    Raises:
        OptionsError: an argument is wrong.
        ImportError: matplotlib is not installed.
    """
    found = listed(merges)
    if item is not None:
        checked_item(item, found)
    counts = [
        _counts(merge.sizes if item is None else merge.sizes[item].unsqueeze(0)) for merge in found
    ]
    most = max(map(len, counts))
    figure, axes = panels(len(found), columns, 2.6, 2.1)
    for panel, merge, own in zip(axes, found, counts, strict=True):
        panel.bar(range(len(own)), own, width=0.85, color=hue(0))
        panel.set_yscale("log")
        panel.set_ylim(0.5, 2 * max(map(max, counts)))
        panel.set_xlim(-0.6, most - 0.4)
        panel.set_xticks(range(most), [_range(i) for i in range(most)], rotation=40)
        inked(panel)
        titled(panel, title_of(merge))
    figure.supxlabel("original tokens in a group", **font())
    figure.supylabel("groups", **font())
    return figure


def _counts(sizes: Tensor) -> list[float]:
    """Groups of size 1, 2, 3–4, 5–8, … in an item, the mean over items: of sizes (B, N')."""
    powers = sizes.double().log2().ceil().long()
    return [count / len(sizes) for count in powers.flatten().bincount().tolist()]


def _range(power: int) -> str:
    """Which sizes are counted together."""
    low, high = 2**power // 2 + 1, 2**power
    return str(high) if low >= high else f"{low}–{high}"


def flow(merges: Merges) -> Figure:
    """Tokens of each stream over the attention sites that merge, before and after each merge.

    Args:
        merges: as ``pitome_fx.tokens`` returns them, or some of them.

    Raises:
        OptionsError: an argument is wrong.
        ImportError: matplotlib is not installed.
    """
    found = listed(merges)
    figure = picture(max(4.0, 0.45 * len(found) + 1.2), 2.8)
    axes = figure.subplots()
    places = range(len(found))
    streams = list(dict.fromkeys(merge.stream for merge in found))
    for number, stream in enumerate(streams):
        own = [i for i in places if found[i].stream == stream]
        before, after = ([getattr(found[i], name) for i in own] for name in COUNTS)
        name = f"{found[own[0]].before.shape[1]} tokens at first"
        axes.bar(own, before, width=0.8, color=hue(number), alpha=0.35)
        axes.bar(own, after, width=0.8, color=hue(number), label=name)
        for place, count in zip(own, after, strict=True):
            axes.text(
                place, 0.985 * count, str(count), ha="center", va="top", color="black", size=7
            )
    axes.set_xticks(list(places), [str(merge.number) for merge in found])
    axes.set_xlabel("attention site", **font())
    axes.set_ylabel("tokens", **font())
    inked(axes)
    if len(streams) > 1:
        axes.legend(frameon=False, labelcolor=INK, fontsize="small")
    return figure


COUNTS = ("tokens_before", "tokens_after")
