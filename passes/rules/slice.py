"""Ops that take tokens out of a dimension: select, slice, split.

Merged tokens have no positions, except the protected ones at either end. What cuts between those
is a window of the same groups; anything else is lifted.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

from pitome_fx.passes.replay.step import Step
from pitome_fx.passes.tokens.axes import Position
from pitome_fx.passes.tokens.dims import Atom, Dim, TokenTensor, is_merged
from pitome_fx.passes.tokens.rule import Lift, rule
from pitome_fx.passes.tokens.sizes import Size, same_size

aten = torch.ops.aten


@rule(aten.select.int, moves=True)
def select(step: Step, x: TokenTensor, dim: int, index: Size) -> TokenTensor:
    """Of merged tokens, only a protected one can be picked: its place is known."""
    dim %= len(x.dims)
    if is_merged(x.dims[dim]):
        atom, low, _ = _cut(x.dims[dim], index, _next(index))
        assert atom.space is not None
        index = low.within(atom.space.count)
    elif len(x.dims[dim]) == 1:
        # Note which token is picked: detection protects it.
        axis = x.dims[dim][0].axis
        cut = _positions(axis.size, index, _next(index))
        if cut is not None:
            axis.window(*cut)
    return TokenTensor(step(x, dim, index), (*x.dims[:dim], *x.dims[dim + 1 :]))


def _next(index: Size) -> Size:
    return 2**63 - 1 if isinstance(index, int) and index == -1 else index + 1


@rule(aten.slice.Tensor, moves=True)
def slice_(
    step: Step,
    x: TokenTensor,
    dim: int = 0,
    start: Size | None = None,
    end: Size | None = None,
    stride: int = 1,
) -> TokenTensor:
    """Of merged tokens, a slice between protected positions is a window of the same groups."""
    dim %= len(x.dims)
    size = step.value.shape[dim]
    whole = x.dims[dim]
    if same_size(size, x.dense_shape[dim]):
        return TokenTensor(step(x, dim, 0, 2**63 - 1), x.dims)
    if stride != 1 or len(whole) != 1:
        if is_merged(whole):
            raise Lift("a strided slice of merged tokens")
        part = step.fresh(dim, size)
        return TokenTensor(step(x, dim, start, end, stride), _replaced(x.dims, dim, part))
    if is_merged(whole):
        atom, low, high = _cut(whole, start or 0, end)
        assert atom.space is not None
        part = (Atom(*atom.space.window(low, high)),)
        start, end = low.within(atom.space.count), high.within(atom.space.count)
        return TokenTensor(step(x, dim, start, end), _replaced(x.dims, dim, part))
    cut = _positions(whole[0].axis.size, start or 0, end)
    part = step.fresh(dim, size) if cut is None else (Atom(whole[0].axis.window(*cut)),)
    return TokenTensor(step(x, dim, start, end), _replaced(x.dims, dim, part))


def _replaced(dims: tuple[Dim, ...], dim: int, part: Dim) -> tuple[Dim, ...]:
    return (*dims[:dim], part, *dims[dim + 1 :])


def _positions(size: Size, start: Size, end: Size | None) -> tuple[Position, Position] | None:
    """Start and stop of a slice as positions, None where they are not known."""
    low = _position(start, size)
    high = _position(2**63 - 1 if end is None else end, size)
    return None if low is None or high is None else (low, high)


def _position(index: Size, size: Size) -> Position | None:
    if isinstance(index, int) and index < 0:
        if isinstance(size, int):
            return Position.on(max(size + index, 0), size)
        return Position(-index, True)
    return Position.on(index, size)


def _cut(dim: Dim, start: Size, end: Size | None) -> tuple[Atom, Position, Position]:
    """Where a slice cuts a merged dimension."""
    if len(dim) != 1 or dim[0].space is None:
        raise Lift("a slice cuts a fused dimension")
    cut = _positions(dim[0].axis.size, start, end)
    if cut is None or not all(dim[0].space.cuts_at(position) for position in cut):
        raise Lift("single tokens are picked that are not protected")
    return dim[0], *cut


@rule(aten.unbind.int, moves=True)
def unbind(step: Step, x: TokenTensor, dim: int = 0) -> list[TokenTensor]:
    """Unbinding another dimension leaves the tokens alone."""
    dim %= len(x.dims)
    if is_merged(x.dims[dim]):
        raise Lift("tokens are taken apart one by one")
    dims = (*x.dims[:dim], *x.dims[dim + 1 :])
    return [TokenTensor(part, dims) for part in step(x, dim)]


@rule(
    aten.split.Tensor,
    aten.split.sizes,
    aten.split_with_sizes,
    aten.chunk,
    aten.tensor_split.sections,
    moves=True,
)
def split(step: Step, x: TokenTensor, how: Any, dim: int = 0) -> list[TokenTensor]:
    """Parts of merged tokens are windows if they are cut at protected positions."""
    dim %= len(x.dims)
    sizes = [part.shape[dim] for part in step.value]
    whole = x.dims[dim]
    if is_merged(whole):
        return _split_merged(step, x, sizes, dim)
    parts: list[Dim] = []
    for i, (size, start, end) in enumerate(_extents(sizes)):
        cut = _positions(whole[0].axis.size, start, end) if len(whole) == 1 else None
        part = (
            step.fresh(dim, size, output=i) if cut is None else (Atom(whole[0].axis.window(*cut)),)
        )
        parts.append(part)
    return [
        TokenTensor(data, _replaced(x.dims, dim, part))
        for data, part in zip(step(x, how, dim), parts, strict=True)
    ]


def _split_merged(step: Step, x: TokenTensor, sizes: list[Size], dim: int) -> list[TokenTensor]:
    results = []
    for _, start, end in _extents(sizes):
        atom, low, high = _cut(x.dims[dim], start, end)
        assert atom.space is not None
        part = (Atom(*atom.space.window(low, high)),)
        first, last = low.within(atom.space.count), high.within(atom.space.count)
        data = step.run(aten.slice.Tensor, x, dim, first, last)
        results.append(TokenTensor(data, _replaced(x.dims, dim, part)))
    return results


def _extents(sizes: Sequence[Size]) -> list[tuple[Size, Size, Size]]:
    """Parts of a dimension of the dense program: their sizes, starts and ends."""
    with disable_proxy_modes_tracing():
        ends = list(itertools.accumulate(sizes))
    return list(zip(sizes, [0, *ends], ends, strict=False))


@rule(aten.glu.default)
def glu(step: Step, x: TokenTensor, dim: int = -1) -> TokenTensor:
    """Halves of the channels gate each other, token by token."""
    if is_merged(x.dims[dim]):
        raise Lift("tokens gate each other")
    dim %= len(x.dims)
    half = step.fresh(dim, step.value.shape[dim])
    return TokenTensor(step(x, dim), (*x.dims[:dim], half, *x.dims[dim + 1 :]))


@rule(aten.narrow.default, moves=True)
def narrow(step: Step, x: TokenTensor, dim: int, start: Size, length: Size) -> TokenTensor:
    """A slice by start and length."""
    dim %= len(x.dims)
    if not is_merged(x.dims[dim]):
        value = step(x, dim, start, length)
        return TokenTensor(value, _replaced(x.dims, dim, step.fresh(dim, step.value.shape[dim])))
    return _split_merged(step, x, [start, length], dim)[1]
