"""Along which dimensions a value may differ, judged by its axes.

An op that moves elements hands the axes of its operand on, and its token rule says where they go;
in a broadcast a dimension varies where one of the operands does; of any other op nothing is known,
and it may vary everywhere. A product of axes is judged axis by axis, so that heads fused with the
batch need no special care.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from pitome_fx.passes.aten.families import FILLED, REPEATED
from pitome_fx.passes.aten.nodes import is_tensor
from pitome_fx.passes.aten.operands import value_operands
from pitome_fx.passes.detect.dataflow import Dataflow, draws
from pitome_fx.passes.replay.interpreter import Replay
from pitome_fx.passes.replay.relabel import Relabelling, op_of
from pitome_fx.passes.rules.pointwise import pointwise
from pitome_fx.passes.tokens.axes import Axis
from pitome_fx.passes.tokens.dims import Atom, Dim, amounts, is_single
from pitome_fx.passes.tokens.rule import moves_elements, rule_for
from pitome_fx.passes.tokens.sizes import same_size

aten = torch.ops.aten

Flags = tuple[tuple[bool, ...], ...]
"""For each axis of each dimension: may the value differ along it?"""


class Variation:
    """Judges the values of a labelled graph. Every answer is certain; "may vary" is the default.

    Args:
        replay: the labelling run.
        dataflow: what is known of the values themselves.
    """

    def __init__(self, replay: Replay, dataflow: Dataflow) -> None:
        self.labels = replay.labels
        self.dataflow = dataflow
        self.relabelling = Relabelling(replay)
        self._known: dict[Node, Flags] = {}

    def along(self, node: Node, dim: int) -> bool:
        """May a tensor differ along a dimension, counted from the end?"""
        flags = self.of(node)
        return -dim <= len(flags) and any(flags[dim])

    def of(self, node: Node) -> Flags:
        """For each axis of each dimension of a tensor: may it differ along it?"""
        if node not in self._known:
            dims = self.labels.dims[node]
            flags = zip(dims, self._derived(node, dims), strict=True)
            self._known[node] = tuple((False,) * len(d) if is_single(d) else f for d, f in flags)
        return self._known[node]

    def _derived(self, node: Node, dims: tuple[Dim, ...]) -> Flags:
        value = self.dataflow.evaluate(node)
        if value is not None:
            return tuple(_flags(dim, _differs(value, at)) for at, dim in enumerate(dims))
        op = op_of(node)
        if node not in self.dataflow.written and op.op == "call_function" and not draws(op):
            if op.target in FILLED or self.dataflow.bounds.only_value(node) is not None:
                return _nowhere(dims)
            if rule_for(op.target) is pointwise or op.target in REPEATED:
                return self._broadcast(filter(is_tensor, value_operands(node)), dims)
            if op.target == aten.index.Tensor:
                return self._looked_up(node, dims)
            if moves_elements(op.target):
                return self._moved(node, op, dims)
        return _everywhere(dims)

    def _broadcast(self, sources: Iterable[Node], dims: tuple[Dim, ...]) -> Flags:
        found = _nowhere(dims)
        for source in sources:
            own = self.of(source)
            own = (*[()] * (len(dims) - len(own)), *own)
            pairs = zip(found, own, dims, strict=True)
            found = tuple(_either(flags, _spread(new, dim)) for flags, new, dim in pairs)
        return found

    def _looked_up(self, node: Node, dims: tuple[Dim, ...]) -> Flags:
        """Elements of which each dimension is given by an index."""
        args: Any = node.args
        indices = [index for index in args[1] if index is not None]
        is_whole = len(indices) == len(self.labels.dims[args[0]])
        return self._broadcast(indices, dims) if is_whole else _everywhere(dims)

    def _moved(self, node: Node, op: Node, dims: tuple[Dim, ...]) -> Flags:
        source: Any = op.args[0]
        flags = self.of(source)
        if not any(chain.from_iterable(flags)):
            return _nowhere(dims)
        # An axis of its own for every place where one occurs: a mask may have N queries and N keys.
        own = [[Axis(atom.axis.size) for atom in dim] for dim in self.labels.dims[source]]
        varying = {
            axis
            for axes, of_dim in zip(own, flags, strict=True)
            for axis, varies in zip(axes, of_dim, strict=True)
            if varies
        }
        still = set(chain.from_iterable(own)) - varying

        def naming(operand: Node, named: tuple[Dim, ...]) -> tuple[Dim, ...]:
            if operand is source:
                return tuple(tuple(map(Atom, axes)) for axes in own)
            return tuple(tuple(Atom(Axis(a.axis.size, weak=True)) for a in d) for d in named)

        found = self.relabelling.dims(node, naming)
        if found is None:
            return _everywhere(dims)
        # What has no place in the result any more lies in the dimensions that are new.
        lost = any(not _has_place(axis, found) for axis in varying)
        moved = [tuple(_varies(atom.axis, varying, still, lost) for atom in dim) for dim in found]
        return tuple(_spread(new, dim) for new, dim in zip(moved, dims, strict=True))


def _varies(axis: Axis, varying: set[Axis], still: set[Axis], lost: bool) -> bool:
    """May what was moved differ along an axis of the result?"""
    root = (axis.base or axis).within()
    return root in varying or (root not in still and lost)


def _has_place(axis: Axis, dims: Sequence[Dim]) -> bool:
    """Is the axis still among dimensions, or a slice of it?"""
    if any(atom.axis.base is axis for dim in dims for atom in dim):
        return True
    held = amounts(dims).get(axis)
    return held is not None and same_size(held, axis.size)


def _spread(flags: tuple[bool, ...], dim: Dim) -> tuple[bool, ...]:
    """The same for a dimension that may be another product of axes."""
    return flags if len(flags) == len(dim) else _flags(dim, any(flags))


def _either(a: tuple[bool, ...], b: tuple[bool, ...]) -> tuple[bool, ...]:
    return tuple(x or y for x, y in zip(a, b, strict=True))


def _flags(dim: Dim, varies: bool) -> tuple[bool, ...]:
    return (varies,) * len(dim)


def _nowhere(dims: tuple[Dim, ...]) -> Flags:
    return tuple(_flags(dim, False) for dim in dims)


def _everywhere(dims: tuple[Dim, ...]) -> Flags:
    return tuple(_flags(dim, True) for dim in dims)


def _differs(value: Tensor, dim: int) -> bool:
    return bool((value != value.narrow(dim, 0, 1)).any())
