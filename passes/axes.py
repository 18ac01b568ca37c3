"""Where every dimension of every tensor comes from, and which merge state it is in.

A dimension is a product of *axes*, outermost first: after ``x.view(N, B * H, D)`` the middle one
is (B, H). Two dimensions are the same only if their axes are the same objects, never because
their sizes agree. A merged axis carries the token space it lives in beside it.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols, statically_known_true

from pitome_fx.passes.tracked import tracked
from pitome_fx.passes.whole import without_floats

if TYPE_CHECKING:
    from pitome_fx.passes.spaces import TokenSpace

Size = int | torch.SymInt


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
    known = quotient if isinstance(quotient, int) else quotient.node.maybe_as_int()
    return quotient if known is None else known


def product(sizes: Iterable[Size]) -> Size:
    """Product of sizes, 1 for none."""
    return math.prod(map(tracked, sizes))


class Position(NamedTuple):
    """A place on an axis, counted from whichever end is nearer, so that merging leaves it valid."""

    offset: int
    from_end: bool

    @classmethod
    def on(cls, index: Size, size: Size) -> Position | None:
        """The position of a cut at ``index`` of ``size``; None where it is not known statically."""
        index = without_floats(index)
        if isinstance(index, int) and isinstance(size, int):
            index = min(index, size)
            return cls(index, False) if 2 * index <= size else cls(size - index, True)
        if isinstance(index, int):
            # A cut beyond any real length (x[1:] has the stop 2⁶³ − 1) is the end.
            return cls(0, True) if index >= 2**62 else cls(index, False)
        if same_size(index, size):
            return cls(0, True)
        return None

    def within(self, size: Size) -> Size:
        """The index of this position on an axis of ``size``."""
        return size - self.offset if self.from_end else self.offset


START, END = Position(0, False), Position(0, True)


@dataclass(eq=False)
class Axis:
    """The identity of one dimension of the dense program.

    Attributes:
        size: its dense length.
        weak: True if only parameters, constants or an expansion gave rise to it, so that in a
            broadcast the other operand's axis is the better name for the result.
        base: for a window (a slice), the axis it was cut from, and from where to where.
        parts: for a concatenation, what it joins: the axes of each dimension, and its length.
    """

    size: Size
    weak: bool = False
    base: Axis | None = None
    start: Position = START
    stop: Position = END
    parts: tuple[tuple[tuple[Axis, ...], Size], ...] = ()
    _windows: dict[tuple[Position, Position], Axis] = field(default_factory=dict, repr=False)
    _splits: dict[tuple[Any, Any], tuple[Axis, Axis]] = field(default_factory=dict, repr=False)
    _whole: tuple[Axis, Axis, Axis] | None = field(default=None, repr=False)

    def window(self, start: Position, stop: Position) -> Axis:
        """The axis of the slice [start, stop); the whole axis if that is everything."""
        if (start, stop) == (START, END):
            return self
        if (start, stop) not in self._windows:
            size = stop.within(self.size) - start.within(self.size)
            self._windows[start, stop] = Axis(size, self.weak, self, start, stop)
        return self._windows[start, stop]

    @property
    def windows(self) -> list[Axis]:
        """Every slice that was taken of this axis."""
        return list(self._windows.values())

    @property
    def whole(self) -> Axis | None:
        """The larger axis that it is a factor of, None if it is no factor."""
        return None if self._whole is None else self._whole[0]

    def within(self, units: Container[Axis] = ()) -> Axis:
        """The unit, or else the whole axis, that it is a piece of; itself if it is none."""
        axis = self
        while axis not in units and axis.whole is not None:
            axis = axis.whole
        return axis

    def split(self, outer: Size, inner: Size) -> tuple[Axis, Axis]:
        """Factor the axis; the same factors give the same two axes again."""
        key = _hashable(outer), _hashable(inner)
        if key not in self._splits:
            halves = Axis(outer, self.weak), Axis(inner, self.weak)
            self._splits[key] = halves
            for half in halves:
                half._whole = (self, *halves)
        return self._splits[key]


def amounts(dims: Iterable[Dim], units: Container[Axis] = ()) -> dict[Axis, Size]:
    """How much of every axis the dimensions hold, its pieces counted together.

    Args:
        units: axes that count as themselves even where they are pieces of a larger one.
    """
    held: dict[Axis, Size] = {}
    for dim in dims:
        for atom in dim:
            unit = atom.axis.within(units)
            held[unit] = held.get(unit, 1) * atom.axis.size
    return held


def _hashable(size: Size) -> Any:
    return size if isinstance(size, int) else size.node.expr


class Atom(NamedTuple):
    """One axis of a dimension; ``space`` is None where its tokens are not merged."""

    axis: Axis
    space: TokenSpace | None = None

    @property
    def length(self) -> Size:
        """Present length: N' groups if merged, else the dense size."""
        return self.axis.size if self.space is None else self.space.count


Dim = tuple[Atom, ...]
"""A dimension, outermost axis first; () for size 1 (or the window of a single token)."""


def is_merged(dim: Dim) -> bool:
    """Does any axis of the dimension live in a token space?"""
    return any(atom.space is not None for atom in dim)


def is_single(dim: Dim) -> bool:
    """Is it of size 1 in the dense program, so that it broadcasts?"""
    return all(isinstance(atom.axis.size, int) and atom.axis.size == 1 for atom in dim)


def is_weak(dim: Dim) -> bool:
    """Is the dimension named by constants alone?"""
    return all(atom.axis.weak for atom in dim)


def length(dim: Dim) -> Size:
    """Present length of a dimension."""
    return product(atom.length for atom in dim)


def dense_length(dim: Dim) -> Size:
    """Length of the dimension in the dense program."""
    return product(atom.axis.size for atom in dim)


def fuse(atoms: Sequence[Atom]) -> Dim:
    """The product of axes; the two halves of one dense axis, side by side, are that axis."""
    dim: list[Atom] = []
    for atom in atoms:
        dim.append(atom)
        while len(dim) >= 2:
            outer, inner = dim[-2].axis, dim[-1].axis
            whole = inner._whole
            if whole is None or outer is not whole[1] or inner is not whole[2]:
                break
            dim[-2:] = [Atom(whole[0])]
    return tuple(dim)


@dataclass(frozen=True, eq=False)
class TokenTensor:
    """A tensor whose dimensions are known by identity and merge state.

    Attributes:
        data: the tensor, real or fake, in its present (merged) shape.
        dims: one Dim per dimension of data.
        tainted: it was computed from some merged value, whether or not it is merged itself.
        origin: the node of the dense graph that yields it.
    """

    data: Tensor
    dims: tuple[Dim, ...]
    tainted: bool = False
    origin: torch.fx.Node | None = None

    @property
    def merged(self) -> bool:
        """Is any dimension in a token space?"""
        return any(is_merged(dim) for dim in self.dims)

    def named(self, dim: int, name: Dim) -> TokenTensor:
        """It with one dimension renamed."""
        dim %= len(self.dims)
        return replace(self, dims=(*self.dims[:dim], name, *self.dims[dim + 1 :]))

    def holding(self, data: Tensor, dims: tuple[Dim, ...] | None = None) -> TokenTensor:
        """Other data that comes of the same values, with its dimensions or others."""
        return replace(self, data=data, dims=self.dims if dims is None else dims)

    @property
    def dense_shape(self) -> tuple[Size, ...]:
        """The shape this tensor has in the dense program."""
        return tuple(
            dense_length(dim) if is_merged(dim) else size
            for dim, size in zip(self.dims, self.data.shape, strict=True)
        )

    def spaces(self) -> list[TokenSpace]:
        """The token spaces of its dimensions, in order."""
        return [atom.space for dim in self.dims for atom in dim if atom.space is not None]
