"""Ops that take only a dtype, a device or a shape from one of their operands.

The lending operand takes no part: it is neither brought into a token space nor merged along, and
what it was computed from says nothing of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch

from pitome_fx.passes.aten.families import CASTS, DRAWS, FILLS, NEW, RESHAPES
from pitome_fx.passes.replay.align import meet
from pitome_fx.passes.replay.apart import batch_axes
from pitome_fx.passes.replay.step import Step
from pitome_fx.passes.rules.reduce import bind
from pitome_fx.passes.rules.shape import refactor
from pitome_fx.passes.tokens.axes import Axis
from pitome_fx.passes.tokens.dims import Atom, Dim, TokenTensor, is_merged, is_single, length
from pitome_fx.passes.tokens.rule import Lift, rule
from pitome_fx.passes.tokens.sizes import same_size

aten = torch.ops.aten


@rule(*CASTS)
def cast(step: Step, x: TokenTensor, other: TokenTensor, *args: Any, **kwargs: Any) -> TokenTensor:
    """x, in the dtype and on the device of the other tensor."""
    return TokenTensor(step(x, other, *args, **kwargs), x.dims)


@rule(*RESHAPES, moves=True)
def view_as(step: Step, x: TokenTensor, other: TokenTensor) -> TokenTensor:
    """The shape of the other tensor in the dense program, with the token counts of x."""
    dims = refactor(step, x, step.value.shape)
    if not (x.merged or other.merged):
        return TokenTensor(step(x, other), dims)
    sizes = [
        length(dim) if is_merged(dim) else size
        for dim, size in zip(dims, other.dense_shape, strict=True)
    ]
    return TokenTensor(step.run(aten.reshape.default, x, sizes), dims)


@rule(aten.expand_as, moves=True)
def expand_as(step: Step, x: TokenTensor, other: TokenTensor) -> TokenTensor:
    """x, repeated along the dimensions of the other tensor that it has not."""
    dims = _grown(x, other.dims)
    if not (x.merged or other.merged):
        return TokenTensor(step(x, other), dims)
    return _expanded(step, x, dims)


@rule(aten.broadcast_tensors)
def broadcast_tensors(step: Step, tensors: Sequence[TokenTensor]) -> list[TokenTensor]:
    """Each tensor, repeated along the dimensions of the others."""
    rank, batch = max(len(x.dims) for x in tensors), batch_axes(tensors)
    common = tuple(
        meet([x.dims[d] for x in tensors if len(x.dims) >= -d], batch) for d in range(-rank, 0)
    )
    dims = [_grown(x, common) for x in tensors]
    if not any(x.merged for x in tensors):
        return [TokenTensor(data, own) for data, own in zip(step(tensors), dims, strict=True)]
    return [_expanded(step, x, own) for x, own in zip(tensors, dims, strict=True)]


@rule(aten.copy.default)
def copy(
    step: Step, overwritten: TokenTensor, x: TokenTensor, *args: Any, **kwargs: Any
) -> TokenTensor:
    """x, repeated to the shape of what it overwrites, and in its dtype."""
    dims = _grown(x, overwritten.dims)
    if not (overwritten.merged or x.merged):
        return TokenTensor(step(step.laid_out(overwritten), x, *args, **kwargs), dims)
    room = step.run(aten.new_empty.default, overwritten, [length(dim) for dim in dims])
    return TokenTensor(step(room, x, *args, **kwargs), dims)


def _grown(x: TokenTensor, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """The dimensions of x expanded to a shape, in whose token spaces it grows.

    The items of x pair with those by which the spaces differ; where it has none that would, it
    grows to all tokens.
    """
    own = (*[()] * (len(shape) - len(x.dims)), *x.dims)
    new = [dim for mine, dim in zip(own, shape, strict=True) if is_single(mine)]
    needed = {a for dim in new for atom in dim if atom.space is not None for a in atom.space.batch}
    named = tuple(
        dim if is_single(mine) or _pairs(mine, dim, needed) else mine
        for mine, dim in zip(own, shape, strict=True)
    )
    axes = [atom.axis for dim in named for atom in dim]
    if all(axes.count(axis) == 1 for axis in needed):
        return named
    return tuple(
        tuple(Atom(atom.axis) for atom in dim) if is_single(mine) else mine
        for mine, dim in zip(own, shape, strict=True)
    )


def _pairs(mine: Dim, other: Dim, batch: AbstractSet[Axis]) -> bool:
    """Are these the items of one batch under two names?"""
    known = not (is_merged(mine) or is_merged(other)) and same_size(length(mine), length(other))
    return known and any(atom.axis in batch for atom in other)


def _expanded(step: Step, x: TokenTensor, dims: tuple[Dim, ...]) -> TokenTensor:
    sizes = [length(dim) for dim in dims]
    return TokenTensor(step.run(aten.expand.default, x, sizes), dims)


@rule(*FILLS)
def filled(step: Step, x: TokenTensor, *args: Any, **kwargs: Any) -> TokenTensor:
    """The same value for all elements, in the present shape of x."""
    return TokenTensor(step(step.laid_out(x), *args, **kwargs), x.dims)


@rule(*DRAWS)
def drawn(step: Step, x: TokenTensor, *args: Any, **kwargs: Any) -> TokenTensor:
    """A value for every token of the dense program, where it draws as many.

    What is drawn is computed from no token; where it meets merged ones it is merged along.
    """
    if not x.merged:
        return TokenTensor(step(step.laid_out(x), *args, **kwargs), x.dims)
    if any(isinstance(other, TokenTensor) for other in (*args, *kwargs.values())):
        raise Lift("each token draws a value of its own")
    assert x.origin is not None
    strides = x.origin.meta["val"].stride()
    room = step.run(aten.new_empty_strided.default, x, x.dense_shape, strides)
    dense = tuple(tuple(Atom(atom.axis) for atom in dim) for dim in x.dims)
    return TokenTensor(step(room, *args, **kwargs), dense)


@rule(aten.bernoulli.default)
def bernoulli(step: Step, x: TokenTensor, *args: Any, **kwargs: Any) -> TokenTensor:
    """Each token draws, with a probability of its own."""
    if x.merged:
        raise Lift("each token draws a value of its own")
    return TokenTensor(step(x, *args, **kwargs), x.dims)


@rule(aten.rrelu.default)
def rrelu(step: Step, x: TokenTensor, *args: Any, **kwargs: Any) -> TokenTensor:
    """A fixed slope, except in training."""
    if x.merged and bind(step, (x, *args), kwargs).get("training", False):
        raise Lift("each token draws a slope of its own")
    return TokenTensor(step(x, *args, **kwargs), x.dims)


@rule(*NEW)
def new_tensor(step: Step, x: TokenTensor, size: Any, *args: Any, **kwargs: Any) -> TokenTensor:
    """The dense size that it asks for."""
    value = step(x, size, *args, **kwargs)
    return TokenTensor(value, step.fresh_like(value))
