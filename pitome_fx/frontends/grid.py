"""How tokens lie on what they were made of: rows and columns of patches, frames, words."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pitome_fx.passes.tokens.axes import Axis, Part


@dataclass(frozen=True)
class Grid:
    """The tokens of a stream that lie in order.

    Attributes:
        shape: how many along each direction, as (h, w) for the patches of an image; the last
            direction is the fastest. (N,) for tokens of a sequence.
        start: how many tokens (class, registers) stand before them.
    """

    shape: tuple[int, ...]
    start: int

    @property
    def count(self) -> int:
        """How many tokens they are."""
        return math.prod(self.shape)


def grid_of(axes: tuple[Axis, ...]) -> Grid | None:
    """The grid that the axes of a token dimension say; None where they say none.

    A patch embedding makes tokens of the rows and columns of a convolution, or of pieces of an
    image: the token dimension is the product of these axes. Learned tokens were joined to them.
    Tokens in another order, as those of windows, lie on no grid.
    """
    if len(axes) == 1 and axes[0].parts:
        return _of_parts(axes[0].parts)
    sizes = [axis.size for axis in axes]
    if not all(axis.is_outer for axis in axes) or not all(isinstance(n, int) for n in sizes):
        return None
    return Grid(tuple(map(int, sizes)), 0)


def _of_parts(parts: tuple[Part, ...]) -> Grid | None:
    """The grid in a concatenation: the largest one among its parts."""
    found: list[Grid] = []
    start = 0
    for part in parts:
        if not isinstance(part.size, int):
            return None
        own = None if part.learned else grid_of(part.axes)
        if own is not None:
            found.append(Grid(own.shape, start + own.start))
        start += part.size
    return max(found, key=lambda grid: grid.count, default=None)
