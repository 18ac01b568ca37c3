"""Merged tokens of a text: the words of each group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from pitome_fx.errors import OptionsError
from pitome_fx.frontends.tokens import MergedTokens
from pitome_fx.viz.canvas import colours, font, panels, plain, title_of
from pitome_fx.viz.inputs import Merges, checked_item, listed, where

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LETTERS = 96
"""In a line of a text."""
LETTER, LINE = 0.088, 0.3
"""Width of a letter and height of a line, in inches."""


def words(words: Sequence[str], merges: Merges, *, item: int = 0) -> Figure:
    """The words of a text, those of one group in one colour and with one number, after each merge.

    Words that are alone are grey. Group 1 is the largest; groups of equal size count from the left.

    Args:
        words: one per token, special ones included, as a tokenizer's ``convert_ids_to_tokens``
            gives them; what is left out at the end (padding) is not drawn.
        merges: as ``pitome_fx.tokens`` returns them, or some of them.
        item: which one of the batch.

    Raises:
        OptionsError: there are more words than tokens, or an argument is wrong.
        ImportError: matplotlib is not installed.
    """
    found = listed(merges)
    checked_item(item, found)
    texts = _texts(words, found)
    rows = _places(texts)
    lines = rows[-1][0] + 1
    width, height = LETTERS * LETTER, lines * LINE + 0.45
    figure, axes = panels(len(found), 1, width, height)
    for panel, merge in zip(axes, found, strict=True):
        _write(panel, texts, rows, merge.assignment[item].tolist()[: len(texts)])
        panel.set_xlim(0, LETTERS)
        panel.set_ylim(lines, 0)
        plain(panel)
        panel.set_title(title_of(merge).replace("\n", ": "), loc="left", **font())
    return figure


def _texts(words: Sequence[str], merges: Sequence[MergedTokens]) -> list[str]:
    if isinstance(words, str) or not all(isinstance(word, str) for word in words) or not words:
        raise OptionsError("words: expected a list of strings, one per token.")
    for merge in merges:
        if len(words) > merge.before.shape[1]:
            raise OptionsError(
                f"words: {len(words)} were given, and {where(merge)} has "
                f"{merge.before.shape[1]} tokens: one word per token is expected."
            )
    # A dollar would begin a formula, and a very long word would leave its line.
    return [word.replace("$", r"\$")[: LETTERS - 8] or "·" for word in words]


def _places(texts: Sequence[str]) -> list[tuple[int, float, float]]:
    """Line, left end and width of each word, in letters; room for a number behind it."""
    places: list[tuple[int, float, float]] = []
    line, column = 0, 0.0
    for text in texts:
        width = len(text) + 3.0
        if column + width > LETTERS:
            line, column = line + 1, 0.0
        places.append((line, column, width))
        column += width + 0.5
    return places


def _write(axes: Axes, texts: Sequence[str], places: Sequence[Any], groups: Sequence[int]) -> None:
    from matplotlib.patches import FancyBboxPatch

    numbers = _numbers(groups)
    own = colours(torch.tensor(groups))
    for text, (line, left, width), group, colour in zip(texts, places, groups, own, strict=True):
        axes.add_patch(
            FancyBboxPatch(
                (left + 0.2, line + 0.16),
                width - 0.4,
                0.68,
                boxstyle="round,pad=0,rounding_size=0.2",
                mutation_aspect=0.3,
                facecolor=colour,
                linewidth=0,
            )
        )
        where: dict[str, Any] = {"va": "center_baseline", "family": "monospace", "color": "black"}
        shift = 0.9 if group in numbers else 1.5
        axes.text(left + shift, line + 0.5, text, ha="left", size=8, **where)
        if group in numbers:
            label = str(numbers[group])
            axes.text(left + width - 0.5, line + 0.42, label, ha="right", size=5, **where)


def _numbers(groups: Sequence[int]) -> dict[int, int]:
    """A number for each group of two words or more, 1 for the largest."""
    order = dict.fromkeys(groups)
    members = {group: groups.count(group) for group in order}
    shared = sorted((g for g in order if members[g] > 1), key=lambda g: -members[g])
    return {group: i + 1 for i, group in enumerate(shared)}
