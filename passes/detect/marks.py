"""Marked axes: the same tokens told apart as queries and as keys of one product."""

from __future__ import annotations

from collections.abc import Iterable

from pitome_fx.passes.tokens.axes import Axis
from pitome_fx.passes.tokens.dims import Atom, Dim

Mark = tuple[str, Axis]
"""An axis as the left or the right factor of a product has it, or as a softmax runs over it."""


class Marks:
    """One axis of its own for every mark."""

    def __init__(self) -> None:
        self._axis: dict[Mark, Axis] = {}
        self._mark: dict[Axis, Mark] = {}

    def put(self, side: str, dim: Dim) -> Dim:
        """The dimension with marked axes."""
        return tuple(Atom(self._marked((side, atom.axis))) for atom in dim)

    def _marked(self, mark: Mark) -> Axis:
        if mark not in self._axis:
            self._axis[mark] = Axis(mark[1].size)
            self._mark[self._axis[mark]] = mark
        return self._axis[mark]

    def of(self, *dims: Dim) -> frozenset[Mark]:
        """The marks that dimensions carry, whole or in part."""
        return frozenset(mark for dim in dims for atom in dim for mark in self._within(atom.axis))

    def _within(self, axis: Axis) -> frozenset[Mark]:
        if axis in self._mark:
            return frozenset({self._mark[axis]})
        if axis.base is not None:
            return self._within(axis.base)
        joined = (own for part in axis.parts for own in part.axes)
        wholes = joined if axis.whole is None else (axis.whole,)
        return frozenset[Mark]().union(*map(self._within, wholes))

    def is_whole(self, dim: Dim) -> bool:
        """Is it a marked dimension as it was: no window, no factor, and joined to nothing?"""
        return bool(dim) and all(atom.axis in self._mark for atom in dim)

    def places(self, dims: Iterable[Dim], marks: frozenset[Mark]) -> list[int]:
        """Which dimensions carry one of the marks, counted from the end."""
        dims = tuple(dims)
        return [i - len(dims) for i, dim in enumerate(dims) if marks & self.of(dim)]
