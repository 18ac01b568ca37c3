"""Sizes, known or symbolic: compared, divided and multiplied without a guard on any."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols, statically_known_true

from pitome_fx.passes.tokens.tracked import tracked
from pitome_fx.passes.tokens.whole import Size, without_floats

__all__ = ["Size", "depends_on_values", "divided", "hint", "product", "same_size", "settled"]


def settled(size: Size) -> Size:
    """The number that a symbolic size has become by a guard, or else the size."""
    known = size if isinstance(size, int) else size.node.maybe_as_int()
    return size if known is None else int(known)


def same_size(a: Size, b: Size) -> bool:
    """Are the sizes provably equal? Adds no guard, and no node to a trace."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    with disable_proxy_modes_tracing():
        return statically_known_true(without_floats(a) == without_floats(b))


MANY = 8192
"""Stands for a size that nobody knows before the program runs; only costs are reckoned with it."""


def hint(size: Size) -> int:
    """The size, or for a symbolic one the size it was traced with."""
    known = size if isinstance(size, int) else size.node.hint
    return MANY if known is None else int(known)


def depends_on_values(size: Size) -> bool:
    """Is it known only when the program runs, because values of tensors decide it?"""
    return not isinstance(size, int) and bool(free_unbacked_symbols(size))


def divided(size: Size, factor: Size) -> Size | None:
    """size / factor where that is provably whole, else None. Adds no guard, and no node."""
    if isinstance(size, int) and isinstance(factor, int):
        return size // factor if factor and size % factor == 0 else None
    with disable_proxy_modes_tracing():
        size, factor = without_floats(size), without_floats(factor)
        quotient = size // factor
        if not statically_known_true(quotient * factor == size):
            return None
    return settled(quotient)


def product(sizes: Iterable[Size]) -> Size:
    """Product of sizes, 1 for none."""
    return math.prod(map(tracked, sizes))
