"""Merged tokens on the image that they were made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from pitome_fx.errors import OptionsError
from pitome_fx.viz.canvas import colours, font, panels, plain, title_of, titled
from pitome_fx.viz.inputs import Merges, checked_item, grid_for, image_of, listed, on_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, TITLE = 2.6, 0.45
"""Of a panel, and of the title above it, in inches."""


def groups(
    images: Any,
    merges: Merges,
    *,
    item: int = 0,
    grid: tuple[int, int] | None = None,
    fill: Literal["mean", "colours"] = "mean",
    columns: int = 4,
) -> Figure:
    """The image, and the groups of its patches after each merge, with their borders.

    Args:
        images: (B, C, H, W), (C, H, W), (H, W, C) or (H, W), a tensor, an array or a PIL image.
        merges: as ``pitome_fx.tokens`` returns them, or some of them.
        item: which one of the batch.
        grid: rows and columns of patches; found in the graph unless given.
        fill: a group has the mean colour of its patches, or a ``"colours"`` of its own, by which
            members far apart are told; patches that are alone show the image.
        columns: panels in a row.

    Raises:
        OptionsError: the grid cannot be found, or an argument is wrong.
        ImportError: matplotlib is not installed.
    """
    if fill not in ("mean", "colours"):
        raise OptionsError(f"fill={fill!r} is not allowed: expected 'mean' or 'colours'.")
    found = listed(merges)
    checked_item(item, found)
    image = image_of(images, item, len(found[0].assignment))
    places = [grid_for(merge, grid) for merge in found]
    height = WIDTH * image.shape[0] / image.shape[1] + TITLE
    figure, axes = panels(1 + len(found), columns, WIDTH, height)
    _show(axes[0], image, image)
    titled(axes[0], f"original\n{image.shape[1]} × {image.shape[0]} pixels")
    for panel, merge, place in zip(axes[1:], found, places, strict=True):
        own = merge.assignment[item].cpu()
        patches = on_grid(own, place)
        if fill == "mean":
            shown = mean_colours(image, patches)
        else:
            shown = own_colours(image, patches, on_grid(torch.tensor(colours(own)), place))
        _show(panel, shown, image, patches)
        _draw_borders(panel, patches)
        titled(panel, title_of(merge))
    return figure


def scores(
    images: Any,
    merges: Merges,
    *,
    item: int = 0,
    grid: tuple[int, int] | None = None,
    columns: int = 4,
) -> Figure:
    """The image, and for each merge what the algorithm ranked its tokens by.

    Every patch has the score of the token that it is in when the merge is decided; protected ones
    have none. Arguments as of ``groups``.

    Raises:
        OptionsError: the algorithm ranks no tokens, the grid cannot be found, or an argument is
            wrong.
        ImportError: matplotlib is not installed.
    """
    found = listed(merges)
    checked_item(item, found)
    image = image_of(images, item, len(found[0].assignment))
    height = WIDTH * image.shape[0] / image.shape[1] + TITLE
    maps = []
    for merge in found:
        if merge.scores is None:
            raise OptionsError(
                "scores: the algorithm ranks no tokens (as 'tome' and 'random'); those of the "
                "family of 'pitome' rank them by energy, and 'evit' and its kin by importance."
            )
        of_tokens = merge.scores[item].float().gather(0, merge.before[item]).cpu()
        maps.append(on_grid(of_tokens, grid_for(merge, grid)))
    figure, axes = panels(1 + len(found), columns, WIDTH + 0.35, height)
    _show(axes[0], image, image)
    titled(axes[0], f"original\n{image.shape[1]} × {image.shape[0]} pixels")
    for panel, merge, values in zip(axes[1:], found, maps, strict=True):
        drawn = _show(panel, values, image)
        bar = figure.colorbar(drawn, ax=panel, shrink=0.8, pad=0.02)
        bar.ax.tick_params(colors=font()["color"], labelsize="x-small")
        bar.outline.set_visible(False)
        titled(panel, title_of(merge))
    return figure


def mean_colours(image: Tensor, patches: Tensor) -> Tensor:
    """An image (H, W, 3) in which each group of patches (h, w) has its mean colour."""
    index = per_pixel(patches, image).flatten()
    count = int(index.max()) + 1
    total = image.new_zeros(count, 3).index_add(0, index, image.flatten(0, 1))
    pixels = index.bincount(minlength=count).clamp(min=1).unsqueeze(1)
    return (total / pixels)[index].reshape(image.shape)


def own_colours(image: Tensor, patches: Tensor, colour: Tensor) -> Tensor:
    """An image in grey (H, W, 3) under the colours (h, w, 3) of groups of more than one patch."""
    grey = image.mean(2, keepdim=True).expand_as(image)
    shared = (patches.flatten().bincount()[patches] > 1).long()
    tinted = 0.25 * grey + 0.75 * per_pixel(colour, image)
    return torch.where(per_pixel(shared, image).unsqueeze(2) > 0, tinted, image)


def per_pixel(patches: Tensor, image: Tensor) -> Tensor:
    """Values of patches (h, w, …) for every pixel of an image: (H, W, …)."""
    rows, columns = (
        torch.arange(pixels) * count // pixels
        for pixels, count in zip(image.shape[:2], patches.shape[:2], strict=True)
    )
    return patches[rows][:, columns]


def borders(patches: Tensor) -> list[list[tuple[int, int]]]:
    """Lines between neighbours (h, w) of unlike groups, as ((x, y), (x, y)) in patches."""
    lines = []
    for y, x in (patches[:, 1:] != patches[:, :-1]).nonzero().tolist():
        lines.append([(x + 1, y), (x + 1, y + 1)])
    for y, x in (patches[1:] != patches[:-1]).nonzero().tolist():
        lines.append([(x, y + 1), (x + 1, y + 1)])
    return lines


def _show(axes: Axes, pixels: Tensor, image: Tensor, patches: Tensor | None = None) -> Any:
    """Pixels in the shape of the image, on axes that count its pixels, or rows and columns."""
    height, width = image.shape[:2]
    rows, columns = (height, width) if patches is None else patches.shape
    drawn = axes.imshow(
        pixels.numpy(),
        extent=(0, columns, rows, 0),
        interpolation="nearest",
        aspect=(height / rows) / (width / columns),
    )
    plain(axes)
    return drawn


def _draw_borders(axes: Axes, patches: Tensor) -> None:
    from matplotlib.collections import LineCollection

    axes.add_collection(
        LineCollection(borders(patches), colors="white", linewidths=0.4, capstyle="round")
    )
