"""Items of a batch that merge each on their own, and what keeps them apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch.utils._pytree as pytree

from pitome_fx.passes.aten.nodes import is_one
from pitome_fx.passes.tokens.axes import Axis
from pitome_fx.passes.tokens.dims import Atom, Dim, TokenTensor
from pitome_fx.passes.tokens.rule import Lift


def batch_axes(operands: Iterable[TokenTensor]) -> frozenset[Axis]:
    """Axes along which the token spaces of the operands differ from item to item."""
    return frozenset(axis for x in operands for space in x.spaces() for axis in space.batch)


def keep_items_apart(x: TokenTensor, over: Iterable[int], *others: TokenTensor) -> None:
    """Refuse to act along an axis whose items merge each on their own.

    Group g of one item and group g of another are different tokens: what sums, orders or
    compares along a batch axis needs them unmerged.
    """
    batch = batch_axes([x, *others])
    if any(atom.axis in batch for d in over for atom in x.dims[d]):
        raise Lift("the op mixes the items of a batch, and each has its own groups")


def keep_dense(*operands: Any) -> None:
    """Refuse merged operands where the op's own weights, tables or statistics belong."""
    if any(isinstance(x, TokenTensor) and x.merged for x in pytree.tree_leaves(operands)):
        raise Lift("a parameter of the op is computed from merged tokens")


def keep_axes_apart(operands: Sequence[TokenTensor], dims: Iterable[Dim]) -> None:
    """Refuse to pair every item of a batch with every other, each in groups of its own."""
    batch = batch_axes(operands)
    axes = [atom.axis for dim in dims for atom in dim]
    if any(axes.count(axis) > 1 for axis in batch):
        raise Lift("items of a batch meet each other, and each has its own groups")


def hide(x: TokenTensor, dim: int) -> TokenTensor:
    """x with one dimension made opaque: dense, and no other's."""
    size = x.data.shape[dim]
    return x.named(dim, () if is_one(size) else (Atom(Axis(size, weak=True)),))
