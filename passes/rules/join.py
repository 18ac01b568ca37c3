"""Concatenation and stacking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pitome_fx.passes.replay.align import align
from pitome_fx.passes.replay.apart import batch_axes, hide, keep_items_apart
from pitome_fx.passes.replay.step import Step
from pitome_fx.passes.rules.reduce import bind
from pitome_fx.passes.tokens.axes import END, START, Axis, Part, Position
from pitome_fx.passes.tokens.dims import Atom, Dim, TokenTensor, is_merged
from pitome_fx.passes.tokens.rule import Lift, rule
from pitome_fx.passes.tokens.sizes import Size
from pitome_fx.passes.tokens.spaces import TokenSpace, joined_space

aten = torch.ops.aten


@rule(aten.stack)
def stack(step: Step, tensors: Sequence[TokenTensor], dim: int = 0) -> TokenTensor:
    """The parts in common token spaces, along a new dimension."""
    parts, dims = align(step, tensors)
    dim %= len(dims) + 1
    new = step.fresh(dim, step.value.shape[dim])
    return TokenTensor(step(parts, dim), (*dims[:dim], new, *dims[dim:]))


@rule(aten.cat, aten.concat.default, aten.concatenate.default)
def cat(step: Step, tensors: Sequence[TokenTensor], dim: int = 0) -> TokenTensor:
    """Adjacent windows of one axis make that axis again; other tokens join into a new one."""
    dim %= len(step.value.shape)
    # An empty 1-d tensor may be joined to anything (a fresh key-value cache): it adds nothing.
    tensors = [x for x in tensors if len(x.dims) == len(step.value.shape)]
    joined = [x.dims[dim] for x in tensors]
    hidden = [hide(x, dim) for x in tensors]
    parts, dims = align(step, hidden, batch=batch_axes(tensors))
    new = _join(joined)
    if new is None:
        new = step.fresh(dim, step.value.shape[dim])
        for atom in new:
            atom.axis.parts = tuple(
                Part(
                    tuple(own.axis for own in part),
                    x.dense_shape[dim],
                    x.origin in step.replay.constant,
                )
                for part, x in zip(joined, tensors, strict=True)
            )
        if any(is_merged(part) for part in joined):
            sizes = (x.dense_shape[dim] for x in tensors)
            new = _joined_state(new, list(zip(sizes, joined, strict=True)))
    return TokenTensor(step(parts, dim), _with(dims, dim, new))


@rule(aten.pad.default, aten.constant_pad_nd.default)
def pad(
    step: Step, x: TokenTensor, widths: Sequence[Size], *args: Any, **kwargs: Any
) -> TokenTensor:
    """Tokens that all have one value join the others at either end."""
    mode = bind(step, (x, widths, *args), kwargs).get("mode", "constant")
    dims = list(x.dims)
    for i in range(0, len(widths), 2):
        dim, ends = len(dims) - 1 - i // 2, (widths[i], widths[i + 1])
        if all(_is_zero(width) for width in ends):
            continue
        own = dims[dim]
        keep_items_apart(x, [dim])
        if is_merged(own) and not (mode == "constant" and all(_grows(width) for width in ends)):
            raise Lift("tokens are cut off, or repeated at the ends")
        new = step.fresh(dim, step.value.shape[dim])
        pieces = [(ends[0], ()), (x.dense_shape[dim], own), (ends[1], ())]
        pieces = [(size, part) for size, part in pieces if part or not _is_zero(size)]
        if new and mode == "constant" and all(_grows(width) for width in ends):
            new[0].axis.parts = tuple(
                Part(tuple(atom.axis for atom in part), size, learned=False)
                for size, part in pieces
            )
        dims[dim] = _joined_state(new, pieces) if is_merged(own) else new
    return TokenTensor(step(x, widths, *args, **kwargs), tuple(dims))


def _is_zero(width: Size) -> bool:
    return isinstance(width, int) and width == 0


def _grows(width: Size) -> bool:
    return isinstance(width, int) and width >= 0


def _with(dims: tuple[Dim, ...], dim: int, new: Dim) -> tuple[Dim, ...]:
    return (*dims[:dim], new, *dims[dim + 1 :])


def _join(parts: list[Dim]) -> Dim | None:
    """The one window that adjacent windows of the same axis form, None if they are none."""
    if any(len(part) != 1 for part in parts):
        return None
    atoms = [part[0] for part in parts]
    base = _base(atoms[0].axis)
    position: Position | None = None
    for atom in atoms:
        if _base(atom.axis) is not base:
            return None
        start, stop = _extent(atom.axis)
        if position is not None and position != start:
            return None
        position = stop
    start, stop = _extent(atoms[0].axis)[0], _extent(atoms[-1].axis)[1]
    spaces = {atom.space.uncut for atom in atoms if atom.space is not None}
    if not spaces:
        return (Atom(base.window(start, stop)),)
    if len(spaces) > 1:
        return None
    space = spaces.pop()
    if any(a.space is None and not _is_protected(a.axis, space) for a in atoms):
        return None
    return (Atom(*space.window(start, stop)),)


def _base(axis: Axis) -> Axis:
    return axis if axis.base is None else axis.base


def _extent(axis: Axis) -> tuple[Position, Position]:
    return (START, END) if axis.base is None else (axis.start, axis.stop)


def _is_protected(axis: Axis, space: TokenSpace) -> bool:
    start, stop = _extent(axis)
    return start.from_end == stop.from_end and space.cuts_at(start) and space.cuts_at(stop)


def _joined_state(new: Dim, pieces: Sequence[tuple[Size, Dim]]) -> Dim:
    """The dimension of what was joined: per part the dense length, and what it is."""
    if any(is_merged(part) and len(part) != 1 for _, part in pieces):
        raise Lift("a fused token dimension is concatenated")
    states = [(size, part[0].space if is_merged(part) else None) for size, part in pieces]
    if len({space.batch for _, space in states if space is not None}) > 1:
        raise Lift("tokens of unrelated batches are concatenated")
    return (Atom(new[0].axis, joined_space(new[0].axis, states)),)
