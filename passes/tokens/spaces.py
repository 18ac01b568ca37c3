"""Token spaces: the merge states that an axis goes through.

A space knows who belongs to which group, and moves rows of values between its groups and the dense
tokens. There are three kinds: what a merge leads to, a window of that, and several joined.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pitome_fx.ops import emit
from pitome_fx.passes.tokens.axes import Axis, Position
from pitome_fx.passes.tokens.sizes import Size, same_size


@dataclass(eq=False)
class TokenSpace:
    """One merge state of a token axis. B: batch, N: dense tokens, N': groups, F: features.

    Attributes:
        axis: the dense axis.
        batch: the axes along which every item has its own assignment, outermost first.
        count: N'.
        size: (B, N') original tokens per group.
        assign: (B, N) group of each original token.
        representative: (B, N') one original token of each group.
        front, back: protected tokens at either end; they stay alone and in place.
        kinds: numbers of the kinds of tokens that every merge so far kept apart.
    """

    axis: Axis
    batch: tuple[Axis, ...]
    count: Size
    size: Tensor
    assign: Tensor
    representative: Tensor
    front: int
    back: int
    kinds: frozenset[int] = frozenset()
    _windows: dict[Axis, WindowSpace] = field(default_factory=dict, repr=False)
    _paired: dict[tuple[Axis, ...], TokenSpace] = field(default_factory=dict, repr=False)

    def up(self, rows: Tensor) -> Tensor:
        """(B, N', F) → (B, N, F): each token has the value of its group."""
        return emit("unmerge", rows, self.assign)

    def down(self, rows: Tensor, source: TokenSpace | None = None) -> Tensor:
        """(B, N, F) → (B, N', F): the mean over each group.

        Args:
            source: the earlier state that the rows are in; None for dense ones.
        """
        assert source is None, "nothing but a merge leads from one state to another"
        return emit("project", rows, self.assign, self.size)

    def log_sum_exp(self, rows: Tensor) -> Tensor:
        """(B, N, F) → (B, N', F): log Σ exp over each group."""
        return emit("group_logsumexp", rows, self.assign, self.size)

    def members(self, rows: Tensor) -> Tensor:
        """(B, N, F) → (B, N', F): the value of one member of each group."""
        return emit("pick", rows, self.representative)

    @property
    def uncut(self) -> TokenSpace:
        """Of a window the state that it was cut from; itself for any other."""
        return self

    @property
    def as_part(self) -> TokenSpace:
        """Of a window that is one part of a concatenation that part's own state; else itself."""
        return self

    @property
    def first_count(self) -> Size:
        """Tokens before the first merge of this axis, some of which may have merged as parts."""
        return self.count

    def merges(self) -> set[int]:
        """Numbers of all merges that led to this state."""
        raise NotImplementedError

    def descends_from(self, other: TokenSpace) -> bool:
        """Is ``other`` an earlier state of this one?"""
        return False

    def paired(self, names: Mapping[Axis, Axis]) -> TokenSpace:
        """The same state under other names of its batch axes, whose items pair one to one."""
        batch = tuple(names.get(axis, axis) for axis in self.batch)
        if batch == self.batch:
            return self
        if batch not in self._paired:
            self._paired[batch] = self._renamed(batch, names)
        return self._paired[batch]

    def _renamed(self, batch: tuple[Axis, ...], names: Mapping[Axis, Axis]) -> TokenSpace:
        return replace(self, batch=batch, _windows={}, _paired={})

    def cuts_at(self, position: Position) -> bool:
        """Is a cut at this position between protected tokens, so that it means the same here?"""
        return position.offset <= (self.back if position.from_end else self.front)

    def window(self, start: Position, stop: Position) -> tuple[Axis, TokenSpace | None]:
        """A slice of the axis between protected positions, and the state that it is in.

        Protected tokens alone are dense.
        """
        axis = self.axis.window(start, stop)
        if axis is self.axis:
            return axis, self
        if start.from_end == stop.from_end:
            return axis, None
        if axis not in self._windows:
            self._windows[axis] = _window(self, axis, start, stop)
        return axis, self._windows[axis]


@dataclass(eq=False, kw_only=True)
class MergedSpace(TokenSpace):
    """What a merge leads to.

    Attributes:
        parent: the state it was merged from; None for the dense axis.
        match: kept, moved, target: from the parent's tokens to these.
        index: number of the merge in the plan.
    """

    parent: TokenSpace | None
    match: tuple[Tensor, Tensor, Tensor]
    index: int

    def down(self, rows: Tensor, source: TokenSpace | None = None) -> Tensor:
        """From an earlier state by the merges that lead here, one after another."""
        if source is None:
            return super().down(rows)
        assert self.parent is not None
        if source is not self.parent:
            rows = self.parent.down(rows, source)
        return emit("merge", rows, self.parent.size, *self.match)

    @property
    def first_count(self) -> Size:
        return self.axis.size if self.parent is None else self.parent.first_count

    def merges(self) -> set[int]:
        return {self.index} | (set() if self.parent is None else self.parent.merges())

    def descends_from(self, other: TokenSpace) -> bool:
        parent = self.parent
        return parent is not None and (parent is other or parent.descends_from(other))

    def _renamed(self, batch: tuple[Axis, ...], names: Mapping[Axis, Axis]) -> TokenSpace:
        parent = None if self.parent is None else self.parent.paired(names)
        return replace(self, batch=batch, parent=parent, _windows={}, _paired={})


@dataclass(eq=False, kw_only=True)
class WindowSpace(TokenSpace):
    """A slice between protected tokens.

    Attributes:
        whole: the state of the whole axis.
    """

    whole: TokenSpace

    @property
    def uncut(self) -> TokenSpace:
        return self.whole

    @property
    def as_part(self) -> TokenSpace:
        if not isinstance(self.whole, JoinedSpace):
            return self
        start = self.axis.start.within(self.whole.axis.size)
        return self.whole.part_at(start, self.axis.size) or self

    def merges(self) -> set[int]:
        return self.whole.merges()


@dataclass(eq=False, kw_only=True)
class JoinedSpace(TokenSpace):
    """A concatenation.

    Attributes:
        parts: the dense tokens (their number, None) and the states (their dense number, it).
    """

    parts: tuple[tuple[Size, TokenSpace | None], ...]

    def part_at(self, start: Size, size: Size) -> TokenSpace | None:
        """The state of the part with these dense tokens, None if there is no such part."""
        joined: Size = 0
        for count, part in self.parts:
            if part is not None and same_size(joined, start) and same_size(count, size):
                return part
            joined = joined + count
        return None

    def merges(self) -> set[int]:
        parts = (part for _, part in self.parts if part is not None)
        return set[int]().union(*(part.merges() for part in parts))


def merged_space(
    axis: Axis,
    batch: tuple[Axis, ...],
    parent: TokenSpace | None,
    match: tuple[Tensor, Tensor, Tensor],
    size: Tensor,
    front: int,
    back: int,
    kinds: frozenset[int],
    index: int,
) -> MergedSpace:
    """The state after one merge; ``size`` (B, N) are the sizes before it."""
    assign, kept = emit("assignment", *match), match[0]
    return MergedSpace(
        axis=axis,
        batch=batch,
        count=kept.shape[1],
        size=emit("merge_size", size, *match),
        assign=assign if parent is None else emit("pick", assign, parent.assign),
        representative=kept if parent is None else emit("pick", parent.representative, kept),
        front=front,
        back=back,
        parent=parent,
        match=match,
        kinds=kinds,
        index=index,
    )


def _window(whole: TokenSpace, axis: Axis, start: Position, stop: Position) -> WindowSpace:
    low, high = start.within(whole.count), stop.within(whole.count)
    first, last = start.within(whole.axis.size), stop.within(whole.axis.size)
    return WindowSpace(
        axis=axis,
        batch=whole.batch,
        count=high - low,
        size=whole.size[:, low:high],
        assign=torch.sub(whole.assign[:, first:last], low),  # type: ignore[arg-type]
        representative=torch.sub(whole.representative[:, low:high], first),  # type: ignore[arg-type]
        front=whole.front - start.offset,
        back=whole.back - stop.offset,
        whole=whole,
    )


def joined_space(axis: Axis, parts: list[tuple[Size, TokenSpace | None]]) -> JoinedSpace:
    """The state of a concatenation of dense tokens (their number, None) and merged ones."""
    first = next(space for _, space in parts if space is not None)
    batch = first.size.shape[0]
    sizes, assigns, representatives = list[Tensor](), list[Tensor](), list[Tensor]()
    groups: Size = 0
    tokens: Size = 0
    for count, space in parts:
        if space is None:
            size = first.size.new_ones((batch, count))
            assign = representative = size.to(torch.int64).cumsum(1) - 1
        else:
            size, assign, representative = space.size, space.assign, space.representative
        sizes.append(size)
        assigns.append(torch.add(assign, groups))  # type: ignore[arg-type]
        representatives.append(torch.add(representative, tokens))  # type: ignore[arg-type]
        groups = groups + (count if space is None else space.count)
        tokens = tokens + count
    leading, trailing = parts[0], parts[-1]
    return JoinedSpace(
        axis=axis,
        batch=first.batch,
        count=groups,
        size=torch.cat(sizes, 1),
        assign=torch.cat(assigns, 1),
        representative=torch.cat(representatives, 1),
        front=_static(leading[0]) if leading[1] is None else leading[1].front,
        back=_static(trailing[0]) if trailing[1] is None else trailing[1].back,
        parts=tuple(parts),
    )


def _static(count: Size) -> int:
    return count if isinstance(count, int) else 0
