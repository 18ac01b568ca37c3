"""Dimensions: products of axes, each in some merge state; and tensors that know theirs.

A dimension lists its axes outermost first: after ``x.view(N, B * H, D)`` the middle one is (B, H).
A merged axis carries the token space it lives in beside it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from pitome_fx.passes.tokens.axes import Axis
from pitome_fx.passes.tokens.sizes import Size, product
from pitome_fx.passes.tokens.spaces import TokenSpace


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
