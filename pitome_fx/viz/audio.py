"""Merged tokens of a recording: the frames of each group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pitome_fx.errors import OptionsError
from pitome_fx.frontends.grid import Grid
from pitome_fx.frontends.tokens import MergedTokens
from pitome_fx.viz.canvas import INK, colours, font, picture, plain, title_of, titled
from pitome_fx.viz.inputs import Merges, checked_item, listed, where

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def frames(spectrogram: Any, merges: Merges, *, item: int = 0) -> Figure:
    """A spectrogram, and under it the frames of each group in one colour, a strip for each merge.

    Frames that are alone are grey. For a model of patches in time and frequency use ``groups``,
    with the spectrogram for an image.

    Args:
        spectrogram: (F, T), or (B, F, T) of a batch; frequencies from low to high. Or a waveform,
            (T,) or (B, 1, T).
        merges: as ``pitome_fx.tokens`` returns them, or some of them.
        item: which one of the batch.

    Raises:
        OptionsError: the tokens lie in rows and columns, or an argument is wrong.
        ImportError: matplotlib is not installed.
    """
    found = listed(merges)
    checked_item(item, found)
    heard = _heard(spectrogram, item, len(found[0].assignment))
    places = [_along_time(merge) for merge in found]
    figure = picture(9, 2.0 + 0.3 * len(found))
    axes = figure.subplots(
        1 + len(found), 1, sharex=True, gridspec_kw={"height_ratios": [6, *[1] * len(found)]}
    )
    if len(heard) > 1:
        axes[0].imshow(
            heard.numpy(), extent=(0, 1, 0, 1), origin="lower", aspect="auto", cmap="magma"
        )
    else:
        axes[0].plot(torch.linspace(0, 1, heard.shape[1]), heard[0], color=INK, linewidth=0.5)
    titled(axes[0], f"{heard.shape[1]} {'frames' if len(heard) > 1 else 'samples'}")
    plain(axes[0])
    for panel, merge, place in zip(axes[1:], found, places, strict=True):
        groups = merge.assignment[item, place.start : place.start + place.count].cpu()
        strip = torch.tensor([colours(groups)])
        panel.imshow(strip.numpy(), extent=(0, 1, 0, 1), aspect="auto", interpolation="nearest")
        plain(panel)
        label = title_of(merge).replace("\n", ": ")
        panel.text(1.005, 0.5, label, ha="left", va="center", **font(fontsize="x-small"))
    return figure


def _heard(spectrogram: Any, item: int, items: int) -> Tensor:
    """(F, T) of an item; (1, T) of a waveform."""
    x = torch.as_tensor(spectrogram).detach().float().cpu()
    if x.dim() == 3 and len(x):
        x = x[item * len(x) // items]
    if x.dim() == 1:
        x = x.unsqueeze(0)
    if x.dim() != 2 or not x.numel():
        raise OptionsError(
            "spectrogram: expected (F, T) or (B, F, T), or a waveform (T,) or (B, 1, T), got "
            f"{tuple(torch.as_tensor(spectrogram).shape)}."
        )
    return x


def _along_time(merge: MergedTokens) -> Grid:
    """The original tokens that are frames, one after another."""
    if merge.grid is None:
        return Grid((merge.before.shape[1],), 0)
    if len(merge.grid.shape) != 1:
        shape = " × ".join(map(str, merge.grid.shape))
        raise OptionsError(
            f"the tokens of {where(merge)} lie along {len(merge.grid.shape)} "
            f"directions ({shape}), not along time alone: draw them with pitome_fx.viz.groups."
        )
    return merge.grid
