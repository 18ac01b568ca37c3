"""Where every dimension of every tensor comes from.

Two dimensions are the same only if their axes are the same objects, never because their sizes
agree.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pitome_fx.passes.tokens.sizes import Size, same_size
from pitome_fx.passes.tokens.whole import without_floats


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


class Part(NamedTuple):
    """One piece of a concatenation.

    Attributes:
        axes: those of its dimension.
        size: its dense length.
        learned: it is computed from parameters, buffers and constants alone.
    """

    axes: tuple[Axis, ...]
    size: Size
    learned: bool


@dataclass(eq=False)
class Axis:
    """The identity of one dimension of the dense program.

    Attributes:
        size: its dense length.
        weak: True if only parameters, constants or an expansion gave rise to it, so that in a
            broadcast the other operand's axis is the better name for the result.
        base: for a window (a slice), the axis it was cut from, and from where to where.
        parts: for a concatenation, what it joins.
    """

    size: Size
    weak: bool = False
    base: Axis | None = None
    start: Position = START
    stop: Position = END
    parts: tuple[Part, ...] = ()
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

    @property
    def is_outer(self) -> bool:
        """Does it count from end to end of what it is a factor of, if it is one?"""
        if self._whole is None:
            return True
        whole, outer, _ = self._whole
        return self is outer and whole.is_outer

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


def _hashable(size: Size) -> Any:
    return size if isinstance(size, int) else size.node.expr
