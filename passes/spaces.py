"""Token spaces: the merge states that an axis goes through.

A space is a node in a tree. Its parent is the state it was merged from (None: the dense axis).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from pitome_fx.ops import emit
from pitome_fx.passes.axes import (
    Atom,
    Axis,
    Position,
    Size,
    same_size,
)


@dataclass(eq=False)
class TokenSpace:
    """One merge state of a token axis. B: batch, N: dense tokens, N': groups.

    Attributes:
        axis: the dense axis.
        batch: the axes along which every item has its own assignment, outermost first.
        count: N'.
        size: (B, N') original tokens per group.
        assign: (B, N) group of each original token.
        representative: (B, N') one original token of each group.
        front, back: protected tokens at either end; they stay alone and in place.
        parent: the state this one was merged from.
        step: kept, moved, target: from the parent's tokens to these.
        padding: value numbers of the padding masks that every merge so far kept apart.
        index: number of the merge in the plan (of the whole axis).
        whole: for a window, the state of the whole axis.
        parts: for a concatenation, the dense tokens (their number, None) and states it joins.
    """

    axis: Axis
    batch: tuple[Axis, ...]
    count: Size
    size: Tensor
    assign_with: Callable[[], Tensor] = field(repr=False)
    front: int = 0
    back: int = 0
    parent: TokenSpace | None = None
    step: tuple[Tensor, Tensor, Tensor] | None = None
    padding: frozenset[int] = frozenset()
    index: int = -1
    whole: TokenSpace | None = None
    parts: tuple[tuple[Size, TokenSpace | None], ...] = ()
    _windows: dict[Axis, TokenSpace] = field(default_factory=dict, repr=False)
    _paired: dict[tuple[Axis, ...], TokenSpace] = field(default_factory=dict, repr=False)

    @cached_property
    def assign(self) -> Tensor:
        return self.assign_with()

    @cached_property
    def representative(self) -> Tensor:
        assert self.step is not None
        kept = self.step[0]
        return kept if self.parent is None else self.parent.representative.gather(1, kept)

    def merges(self) -> set[int]:
        """Numbers of all merges that led to this state."""
        found = {self.index} if self.index >= 0 else set()
        parts = (self.parent, self.whole, *(part for _, part in self.parts))
        return found.union(*(part.merges() for part in parts if part is not None))

    def descends_from(self, other: TokenSpace) -> bool:
        """Is ``other`` an earlier state of this one?"""
        return self.parent is not None and (
            self.parent is other or self.parent.descends_from(other)
        )

    def paired(self, names: Mapping[Axis, Axis]) -> TokenSpace:
        """The same state under other names of its batch axes, whose items pair one to one."""
        batch = tuple(names.get(axis, axis) for axis in self.batch)
        if batch == self.batch:
            return self
        if batch not in self._paired:
            self._paired[batch] = replace(
                self,
                batch=batch,
                assign_with=lambda: self.assign,
                parent=None if self.parent is None else self.parent.paired(names),
                _windows={},
                _paired={},
            )
        return self._paired[batch]

    def cuts_at(self, position: Position) -> bool:
        """Is a cut at this position between protected tokens, so that it means the same here?"""
        return position.offset <= (self.back if position.from_end else self.front)

    def window(self, start: Position, stop: Position) -> Atom:
        """A slice of the axis between protected positions. Protected tokens alone are dense."""
        axis = self.axis.window(start, stop)
        if axis is self.axis:
            return Atom(axis, self)
        if start.from_end == stop.from_end:
            return Atom(axis)
        if axis not in self._windows:
            self._windows[axis] = self._make_window(axis, start, stop)
        return Atom(axis, self._windows[axis])

    @property
    def as_part(self) -> TokenSpace:
        """For the window of a concatenation that is one of its parts: that part's own state."""
        joined: Size = 0
        if self.whole is None:
            return self
        for count, part in self.whole.parts:
            starts = same_size(joined, self.axis.start.within(self.whole.axis.size))
            if part is not None and starts and same_size(count, self.axis.size):
                return part
            joined = joined + count
        return self

    def _make_window(self, axis: Axis, start: Position, stop: Position) -> TokenSpace:
        low, high = start.within(self.count), stop.within(self.count)
        first, last = start.within(self.axis.size), stop.within(self.axis.size)
        return TokenSpace(
            axis=axis,
            batch=self.batch,
            count=high - low,
            size=self.size[:, low:high],
            assign_with=lambda: torch.sub(self.assign[:, first:last], low),  # type: ignore[arg-type]
            front=self.front - start.offset,
            back=self.back - stop.offset,
            index=self.index,
            whole=self,
        )


def merged_space(
    axis: Axis,
    batch: tuple[Axis, ...],
    parent: TokenSpace | None,
    step: tuple[Tensor, Tensor, Tensor],
    size: Tensor,
    front: int,
    back: int,
    padding: frozenset[int],
    index: int,
) -> TokenSpace:
    """The state after one merge; ``size`` (B, N) are the sizes before it."""

    def assign() -> Tensor:
        last = emit("assignment", *step)
        return last if parent is None else last.gather(1, parent.assign)

    return TokenSpace(
        axis=axis,
        batch=batch,
        count=step[0].shape[1],
        size=emit("merge_size", size, *step),
        assign_with=assign,
        front=front,
        back=back,
        parent=parent,
        step=step,
        padding=padding,
        index=index,
    )


def joined_space(axis: Axis, parts: list[tuple[Size, TokenSpace | None]]) -> TokenSpace:
    """The state of a concatenation of dense tokens (their number, None) and merged ones."""
    first = next(space for _, space in parts if space is not None)
    batch = first.size.shape[0]

    def ones(count: Size) -> Tensor:
        return first.size.new_ones((batch, count))

    def assign() -> Tensor:
        offset: Size = 0
        assigns: list[Tensor] = []
        for count, space in parts:
            own = ones(count).to(torch.int64).cumsum(1) - 1
            group = own if space is None else space.assign
            assigns.append(torch.add(group, offset))  # type: ignore[arg-type]
            offset = offset + (count if space is None else space.count)
        return torch.cat(assigns, 1)

    leading, trailing = parts[0], parts[-1]
    return TokenSpace(
        axis=axis,
        batch=first.batch,
        count=sum(count if space is None else space.count for count, space in parts),
        size=torch.cat([ones(n) if space is None else space.size for n, space in parts], 1),
        assign_with=assign,
        front=_static(leading[0]) if leading[1] is None else leading[1].front,
        back=_static(trailing[0]) if trailing[1] is None else trailing[1].back,
        parts=tuple(parts),
    )


def _static(count: Size) -> int:
    return count if isinstance(count, int) else 0
