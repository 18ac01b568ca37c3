"""Token spaces: the merge states an axis goes through, and moving tensors between them.

A space is a node in a tree. Its parent is the state it was merged from (None: the dense axis).
Everything here acts on one axis of a tensor of any layout: the tensor is brought to rows
(B, N, F), one ``torch.ops.pitome`` node does the work, and the layout is restored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from pitome_fx.ops import emit
from pitome_fx.passes.axes import (
    Atom,
    Axis,
    Dim,
    Position,
    Size,
    TokenTensor,
    is_merged,
    length,
    product,
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

    @cached_property
    def assign(self) -> Tensor:
        return self.assign_with()

    @cached_property
    def representative(self) -> Tensor:
        assert self.step is not None
        kept = self.step[0]
        return kept if self.parent is None else self.parent.representative.gather(1, kept)

    def descends_from(self, other: TokenSpace) -> bool:
        """Is ``other`` an earlier state of this one?"""
        return self.parent is not None and (
            self.parent is other or self.parent.descends_from(other)
        )

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

    def _make_window(self, axis: Axis, start: Position, stop: Position) -> TokenSpace:
        low, high = start.within(self.count), stop.within(self.count)
        first, last = start.within(self.axis.size), stop.within(self.axis.size)
        return TokenSpace(
            axis=axis,
            batch=self.batch,
            count=high - low,
            size=self.size[:, low:high],
            assign_with=lambda: self.assign[:, first:last] - low,
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
        assigns = []
        for count, space in parts:
            own = torch.arange(count, device=first.size.device).expand(batch, -1)
            assigns.append((own if space is None else space.assign) + offset)
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


@dataclass(frozen=True)
class Rows:
    """A tensor brought to (B, N, F) around one token atom, and the way back."""

    data: Tensor
    dims: tuple[Dim, ...]
    place: tuple[int, int]
    batch: tuple[Axis, ...]

    def restore(self, rows: Tensor, atom: Atom) -> TokenTensor:
        """The layout of the original tensor around new rows (B, N'', F) for ``atom``."""
        d, a = self.place
        dim = (*self.dims[d][:a], atom, *self.dims[d][a + 1 :])
        dims = (*self.dims[:d], dim, *self.dims[d + 1 :])
        atoms, order = _row_order(dims, self.place, self.batch)
        back = [0] * len(order)
        for position, source in enumerate(order):
            back[source] = position
        data = _reshape(rows, [atoms[i].length for i in order])
        return TokenTensor(_reshape(_permute(data, back), [length(dim) for dim in dims]), dims)


def rows_of(x: TokenTensor, place: tuple[int, int], batch: tuple[Axis, ...]) -> Rows:
    """Bring x to (B, N, F), N being axis ``place[1]`` of dimension ``place[0]``."""
    atoms, order = _row_order(x.dims, place, batch)
    data = _permute(_reshape(x.data, [atom.length for atom in atoms]), order)
    rest = [atoms[i].length for i in order[len(batch) + 1 :]]
    lead = product(axis.size for axis in batch)
    token = x.dims[place[0]][place[1]].length
    return Rows(_reshape(data, [lead, token, product(rest)]), x.dims, place, batch)


def _row_order(
    dims: tuple[Dim, ...], place: tuple[int, int], batch: tuple[Axis, ...]
) -> tuple[list[Atom], list[int]]:
    """All atoms in order, and the permutation that puts batch, token, rest one after another."""
    atoms = [atom for dim in dims for atom in dim]
    token = sum(len(dim) for dim in dims[: place[0]]) + place[1]
    lead = [next(i for i, atom in enumerate(atoms) if atom.axis is axis) for axis in batch]
    rest = [i for i in range(len(atoms)) if i != token and i not in lead]
    return atoms, [*lead, token, *rest]


def _reshape(x: Tensor, shape: list[Size]) -> Tensor:
    return x if list(x.shape) == shape else x.reshape(shape)


def _permute(x: Tensor, order: list[int]) -> Tensor:
    return x if order == sorted(order) else x.permute(order)


def places(x: TokenTensor) -> list[tuple[int, int]]:
    """Where x has merged axes: (dimension, index within it)."""
    return [
        (d, a)
        for d, dim in enumerate(x.dims)
        for a, atom in enumerate(dim)
        if atom.space is not None
    ]


def lift(x: TokenTensor) -> TokenTensor:
    """Unmerge every merged axis: each token gets the value of its group."""
    for place in places(x):
        atom = x.dims[place[0]][place[1]]
        assert atom.space is not None
        rows = rows_of(x, place, atom.space.batch)
        dense = emit("unmerge", rows.data, atom.space.assign)
        x = rows.restore(dense, Atom(atom.axis))
    return TokenTensor(x.data, x.dims, tainted=True)


def project(x: TokenTensor, dim: int, target: Dim) -> TokenTensor:
    """Merge a dimension along into the spaces of ``target``, by the mean over each group.

    The dimension is dense, or in an earlier state of the same axis. x must carry the batch axes.
    """
    if not is_merged(x.dims[dim]):
        dense = tuple(Atom(atom.axis) for atom in target)
        x = TokenTensor(x.data, (*x.dims[:dim], dense, *x.dims[dim + 1 :]), x.tainted)
    for a, atom in enumerate(target):
        if atom.space is not None and x.dims[dim][a].space is not atom.space:
            x = _project_atom(x, (dim, a), atom.space)
    return x


def _project_atom(x: TokenTensor, place: tuple[int, int], space: TokenSpace) -> TokenTensor:
    source = x.dims[place[0]][place[1]].space
    rows = rows_of(x, place, space.batch)
    if source is None:
        data = emit("project", rows.data, space.assign, space.size)
    else:
        data = rows.data
        for before, after in _chain(source, space):
            assert after.step is not None
            data = emit("merge", data, before.size, *after.step)
    return rows.restore(data, Atom(space.axis, space))


def _chain(source: TokenSpace, target: TokenSpace) -> list[tuple[TokenSpace, TokenSpace]]:
    """The merges that lead from one state to a later one, in order."""
    steps: list[tuple[TokenSpace, TokenSpace]] = []
    while target is not source:
        assert target.parent is not None
        steps.append((target.parent, target))
        target = target.parent
    return steps[::-1]


def logsumexp_keys(x: TokenTensor, dim: int, target: Dim) -> TokenTensor:
    """Like ``project`` from the dense state, by log Σ exp over each group (attention bias)."""
    dense = tuple(Atom(atom.axis) for atom in target)
    x = TokenTensor(x.data, (*x.dims[:dim], dense, *x.dims[dim + 1 :]), x.tainted)
    for a, atom in enumerate(target):
        if atom.space is not None:
            rows = rows_of(x, (dim, a), atom.space.batch)
            data = emit("group_logsumexp", rows.data, atom.space.assign, atom.space.size)
            x = rows.restore(data, atom)
    return x


def spread(values: Tensor, space: TokenSpace, dims: tuple[Dim, ...], place: tuple[int, int]) -> Tensor:
    """Per-group values (B, N') shaped to broadcast against a tensor with these dims.

    Dimensions that hold neither the token axis at ``place`` nor a batch axis get size 1; a fused
    dimension is expanded in full.
    """
    shape: list[Size] = []
    full: list[Size] = []
    needed = {*space.batch}
    for d, dim in enumerate(dims):
        involved = d == place[0] or any(atom.axis in needed for atom in dim)
        if not involved:
            shape.append(1)
            full.append(1)
            continue
        for a, atom in enumerate(dim):
            present = (d, a) == place or atom.axis in needed
            shape.append(atom.length if present else 1)
            full.append(atom.length)
    data = _reshape(_in_dim_order(values, space, dims, place), shape)
    if shape != full:
        data = data.expand(full)
    return _reshape(data, [_spread_length(d, dim, place, needed) for d, dim in enumerate(dims)])


def _spread_length(d: int, dim: Dim, place: tuple[int, int], needed: set[Axis]) -> Size:
    involved = d == place[0] or any(atom.axis in needed for atom in dim)
    return length(dim) if involved else 1


def _in_dim_order(
    values: Tensor, space: TokenSpace, dims: tuple[Dim, ...], place: tuple[int, int]
) -> Tensor:
    """Values as one dimension per batch and token axis, in the order of ``dims``."""
    found = [
        atom.axis if (d, a) != place else None
        for d, dim in enumerate(dims)
        for a, atom in enumerate(dim)
        if (d, a) == place or atom.axis in space.batch
    ]
    split = _reshape(values, [*[axis.size for axis in space.batch], space.count])
    order = [len(space.batch) if axis is None else space.batch.index(axis) for axis in found]
    return _permute(split, order)
