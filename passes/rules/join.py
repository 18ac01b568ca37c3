"""Concatenation and stacking."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pitome_fx.passes.align import align, batch_axes, hide
from pitome_fx.passes.axes import END, START, Atom, Axis, Dim, Position, TokenTensor, is_merged
from pitome_fx.passes.replay import Step
from pitome_fx.passes.rule import Lift, rule
from pitome_fx.passes.spaces import TokenSpace, joined_space

aten = torch.ops.aten


@rule(aten.stack)
def stack(step: Step, tensors: Sequence[TokenTensor], dim: int = 0) -> TokenTensor:
    """The parts in common token spaces, along a new dimension."""
    parts, dims = step.align(*tensors)
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
                (tuple(own.axis for own in part), x.dense_shape[dim])
                for part, x in zip(joined, tensors, strict=True)
            )
        if any(is_merged(part) for part in joined):
            new = _joined_merged(new, joined, tensors, dim)
    return TokenTensor(step(parts, dim), _with(dims, dim, new))


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
    spaces = {atom.space.whole or atom.space for atom in atoms if atom.space is not None}
    if not spaces:
        return (Atom(base.window(start, stop)),)
    if len(spaces) > 1:
        return None
    space = spaces.pop()
    if any(a.space is None and not _is_protected(a.axis, space) for a in atoms):
        return None
    return (space.window(start, stop),)


def _base(axis: Axis) -> Axis:
    return axis if axis.base is None else axis.base


def _extent(axis: Axis) -> tuple[Position, Position]:
    return (START, END) if axis.base is None else (axis.start, axis.stop)


def _is_protected(axis: Axis, space: TokenSpace) -> bool:
    start, stop = _extent(axis)
    return start.from_end == stop.from_end and space.cuts_at(start) and space.cuts_at(stop)


def _joined_merged(new: Dim, parts: list[Dim], tensors: Sequence[TokenTensor], dim: int) -> Dim:
    pieces = []
    for part, x in zip(parts, tensors, strict=True):
        if is_merged(part) and len(part) != 1:
            raise Lift("a fused token dimension is concatenated")
        pieces.append((x.dense_shape[dim], part[0].space if is_merged(part) else None))
    if len({space.batch for _, space in pieces if space is not None}) > 1:
        raise Lift("tokens of unrelated batches are concatenated")
    return (Atom(new[0].axis, joined_space(new[0].axis, pieces)),)
