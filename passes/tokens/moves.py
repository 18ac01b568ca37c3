"""Moving tensors between token spaces: lift, project, and what both stand on.

Everything acts on one axis of a tensor of any layout: the tensor is brought to rows (B, N, F),
the token space does the work, and the layout is restored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pitome_fx.passes.tokens.axes import Axis
from pitome_fx.passes.tokens.dims import Atom, Dim, TokenTensor, is_merged, length
from pitome_fx.passes.tokens.rule import Lift
from pitome_fx.passes.tokens.sizes import Size, product, same_size
from pitome_fx.passes.tokens.spaces import TokenSpace
from pitome_fx.passes.tokens.tracked import tracked

ANOTHER_BATCH = "tokens merged by the items of one batch meet those of another"


@dataclass(frozen=True)
class Rows:
    """A tensor brought to (B, N, F) around one token atom, and the way back."""

    data: Tensor
    whole: TokenTensor
    place: tuple[int, int]
    batch: tuple[Axis, ...]

    def restore(self, rows: Tensor, atom: Atom) -> TokenTensor:
        """The layout of the original tensor around new rows (B, N'', F) for ``atom``."""
        d, a = self.place
        dim = self.whole.dims[d]
        dims = self.whole.named(d, (*dim[:a], atom, *dim[a + 1 :])).dims
        atoms, order = _row_order(dims, self.place, self.batch)
        back = [0] * len(order)
        for position, source in enumerate(order):
            back[source] = position
        data = reshape(rows, [atoms[i].length for i in order])
        data = reshape(permute(data, back), [length(dim) for dim in dims])
        return self.whole.holding(data, dims)


def rows_of(x: TokenTensor, place: tuple[int, int], batch: tuple[Axis, ...]) -> Rows:
    """Bring x to (B, N, F), N being axis ``place[1]`` of dimension ``place[0]``."""
    atoms, order = _row_order(x.dims, place, batch)
    data = permute(reshape(x.data, [atom.length for atom in atoms]), order)
    rest = [atoms[i].length for i in order[len(batch) + 1 :]]
    lead = product(axis.size for axis in batch)
    token = x.dims[place[0]][place[1]].length
    return Rows(reshape(data, [lead, token, product(rest)]), x, place, batch)


def _row_order(
    dims: tuple[Dim, ...], place: tuple[int, int], batch: tuple[Axis, ...]
) -> tuple[list[Atom], list[int]]:
    """All atoms in order, and the permutation that puts batch, token, rest one after another."""
    atoms = [atom for dim in dims for atom in dim]
    token = sum(len(dim) for dim in dims[: place[0]]) + place[1]
    axes = [atom.axis for atom in atoms]
    if any(axis not in axes for axis in batch):
        raise Lift(ANOTHER_BATCH)
    lead = [axes.index(axis) for axis in batch]
    rest = [i for i in range(len(atoms)) if i != token and i not in lead]
    return atoms, [*lead, token, *rest]


def reshape(x: Tensor, shape: list[Size]) -> Tensor:
    """x in another shape; x itself if it has that shape."""
    same = x.dim() == len(shape) and all(map(same_size, x.shape, shape))
    return x if same else x.reshape([tracked(size) for size in shape])


def permute(x: Tensor, order: list[int]) -> Tensor:
    """x with its dimensions in another order; x itself if they are in order."""
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
        x = rows.restore(atom.space.up(rows.data), Atom(atom.axis))
    return replace(x, tainted=True)


def project(x: TokenTensor, dim: int, target: Dim) -> TokenTensor:
    """Merge a dimension along into the spaces of ``target``, by the mean over each group.

    The dimension is dense, or in an earlier state of the same axis. x must carry the batch axes.
    """
    if not is_merged(x.dims[dim]):
        x = x.named(dim, tuple(Atom(atom.axis) for atom in target))
    for a, atom in enumerate(target):
        if atom.space is not None and x.dims[dim][a].space is not atom.space:
            x = _project_atom(x, (dim, a), atom.space)
    return x


def _project_atom(x: TokenTensor, place: tuple[int, int], space: TokenSpace) -> TokenTensor:
    source = x.dims[place[0]][place[1]].space
    rows = rows_of(x, place, space.batch)
    data = space.down(_real(rows.data), source)
    return rows.restore(_like(data, rows.data), Atom(space.axis, space))


def _real(rows: Tensor) -> Tensor:
    """Complex rows (B, N, F) as real ones (B, N, 2F)."""
    return torch.view_as_real(rows).flatten(2) if rows.is_complex() else rows


def _like(rows: Tensor, original: Tensor) -> Tensor:
    """Real rows as complex ones again, if the original was complex."""
    if not original.is_complex():
        return rows
    return torch.view_as_complex(rows.unflatten(2, (-1, 2)).contiguous())


def logsumexp_keys(x: TokenTensor, dim: int, target: Dim) -> TokenTensor:
    """Like ``project`` from the dense state, by log Σ exp over each group."""
    x = x.named(dim, tuple(Atom(atom.axis) for atom in target))
    for a, atom in enumerate(target):
        if atom.space is not None:
            rows = rows_of(x, (dim, a), atom.space.batch)
            x = rows.restore(atom.space.log_sum_exp(rows.data), atom)
    return x


def mean_exp_keys(x: TokenTensor, dim: int, target: Dim) -> TokenTensor:
    """log of the mean of exp over each group: log(size) comes later."""
    summed = logsumexp_keys(x, dim, target)
    data = summed.data
    for a, atom in enumerate(target):
        if atom.space is not None:
            log_size = spread(atom.space.size.log(), atom.space, summed.dims, (dim, a))
            data = data - log_size.type_as(data)
    return summed.holding(data)


def pick(x: TokenTensor, dim: int, target: Dim) -> TokenTensor:
    """Each group's value by its representative, where all members are known to agree."""
    (atom,) = target
    assert atom.space is not None
    rows = rows_of(x.named(dim, (Atom(atom.axis),)), (dim, 0), atom.space.batch)
    return rows.restore(atom.space.members(rows.data), atom)


def spread(
    values: Tensor, space: TokenSpace, dims: tuple[Dim, ...], place: tuple[int, int]
) -> Tensor:
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
    data = reshape(_in_dim_order(values, space, dims, place), shape)
    if shape != full:
        data = data.expand(full)
    return reshape(data, [_spread_length(d, dim, place, needed) for d, dim in enumerate(dims)])


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
    if len(found) <= len(space.batch):
        raise Lift(ANOTHER_BATCH)
    split = reshape(values, [*[axis.size for axis in space.batch], space.count])
    order = [len(space.batch) if axis is None else space.batch.index(axis) for axis in found]
    return permute(split, order)
