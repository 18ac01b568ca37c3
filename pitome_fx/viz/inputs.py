"""What users pass to a picture, checked: merges, an item, an image, a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pitome_fx.errors import OptionsError
from pitome_fx.frontends.grid import Grid
from pitome_fx.frontends.tokens import MergedTokens

Merges = Sequence[MergedTokens] | MergedTokens


def listed(merges: Merges) -> list[MergedTokens]:
    """One merge or several, as a list that is not empty."""
    found = [merges] if isinstance(merges, MergedTokens) else list(merges)
    if not found:
        raise OptionsError(
            "merges: there is none to draw; pitome_fx.tokens returns none where nothing of the "
            "model merges, and pitome_fx.explain says why."
        )
    for merge in found:
        if not isinstance(merge, MergedTokens):
            raise OptionsError(
                f"merges: expected what pitome_fx.tokens returns, got a {type(merge).__name__}."
            )
    return found


def where(merge: MergedTokens) -> str:
    """A merge's place in the model, in words."""
    return merge.module or f"attention site {merge.number}"


def checked_item(item: int, merges: Sequence[MergedTokens]) -> int:
    """The number of an item that every merge has."""
    items = min(len(merge.assignment) for merge in merges)
    if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item < items:
        raise OptionsError(
            f"item={item!r} is not allowed: expected an int from 0 to {items - 1}, as the merges "
            f"are of {items} items."
        )
    return item


def grid_for(merge: MergedTokens, given: tuple[int, int] | None) -> Grid:
    """Rows and columns of the original tokens of a merge: those given, or else those found."""
    if given is not None:
        return _given(merge, given)
    if merge.grid is None:
        raise OptionsError(
            f"the graph does not say how the {merge.before.shape[1]} tokens of {where(merge)} lie "
            "on an image (windows, tokens in an order of their own, or symbolic sizes): give "
            "grid=(rows, columns), or leave this merge out."
        )
    if len(merge.grid.shape) != 2:
        shape = " × ".join(map(str, merge.grid.shape))
        raise OptionsError(
            f"the tokens of {where(merge)} lie along {len(merge.grid.shape)} directions ({shape}), "
            "and not in rows and columns: give grid=(rows, columns), or draw them with "
            "pitome_fx.viz.words or pitome_fx.viz.frames."
        )
    return merge.grid


def _given(merge: MergedTokens, given: tuple[int, int]) -> Grid:
    pair = tuple(given) if isinstance(given, Sequence) else ()
    if len(pair) != 2 or not all(type(n) is int and n > 0 for n in pair):
        raise OptionsError(f"grid={given!r} is not allowed: expected (rows, columns), two ints.")
    count = merge.before.shape[1]
    # Special tokens stand before the patches, or are protected at the end.
    start = count - merge.back - pair[0] * pair[1]
    if start < 0:
        raise OptionsError(
            f"grid={given!r} is not allowed: it has {pair[0] * pair[1]} patches, and "
            f"{where(merge)} begins with {count} tokens."
        )
    return Grid(pair, start)


def on_grid(values: Tensor, grid: Grid) -> Tensor:
    """Of values (M, …) of all tokens those in rows and columns: (h, w, …)."""
    return values[grid.start : grid.start + grid.count].unflatten(0, grid.shape)


def image_of(images: Any, item: int, items: int) -> Tensor:
    """The image (H, W, 3) of an item, float in [0, 1].

    Args:
        images: (B, C, H, W) or (C, H, W), or (H, W), (H, W, C) as in numpy and PIL; uint8, or
            float. Floats beyond [0, 1], as of normalised images, are stretched to that range.
        items: how many there are of all; more than images, where frames or windows merge each on
            their own.
    """
    pixels = torch.as_tensor(_array(images)).detach().cpu()
    if pixels.dim() == 4 and len(pixels):
        pixels = pixels[item * len(pixels) // items]
    if pixels.dim() == 2:
        pixels = pixels.unsqueeze(0)
    if pixels.dim() == 3 and pixels.shape[0] not in (1, 3):
        pixels = pixels.movedim(-1, 0)[:3]
    if pixels.dim() != 3 or pixels.shape[0] not in (1, 3):
        raise OptionsError(
            f"images: expected (B, C, H, W), (C, H, W), (H, W, C) or (H, W) with one or three "
            f"channels, got {tuple(torch.as_tensor(_array(images)).shape)}."
        )
    pixels = pixels / 255 if pixels.dtype == torch.uint8 else _stretched(pixels.float())
    return pixels.expand(3, -1, -1).movedim(0, -1)


def _array(images: Any) -> Any:
    """What torch takes for a tensor: a PIL image is one by way of numpy."""
    if isinstance(images, Tensor):
        return images
    import numpy

    return numpy.array(images)


def _stretched(pixels: Tensor) -> Tensor:
    low, high = pixels.min(), pixels.max()
    if low >= 0 and high <= 1:
        return pixels
    return (pixels - low) / (high - low).clamp(min=1e-12)
