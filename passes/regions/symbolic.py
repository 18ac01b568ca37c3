"""One graph for all regions of a kind, with symbols for the integers in which they differ."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.utils._sympy.numbers import int_oo

from pitome_fx.passes.regions.structure import (
    SYMBOLIC,
    Region,
    dense_order,
    may_differ,
    types_of,
)

SMALL = 4
"""Half of a length below may be one, or none: kinds with such lengths are kinds of their own."""


@dataclass(frozen=True)
class Shape:
    """Which integers of a kind's regions are fixed, and which of the others are one number.

    Attributes:
        slots: for each integer of a region the symbol's number, or None where it is fixed.
        fixed: its values where fixed.
        lowest: for each symbol the lowest value it may have; None for those that count nothing.
    """

    slots: tuple[int | None, ...]
    fixed: tuple[int, ...]
    lowest: tuple[int | None, ...]

    @classmethod
    def of(cls, regions: Sequence[Region], counts: Collection[int] = ()) -> Shape:
        """What all of these have: integers that go together in all are one symbol.

        Args:
            counts: positions of those that are symbols though they be the same in all of these.
        """
        first = regions[0]
        columns = list(zip(*(region.ints for region in regions), strict=True))
        counted = {columns[i] for i in (*counts, *first.amounts)}
        symbols: dict[tuple[bool, tuple[int, ...]], int] = {}
        slots: list[int | None] = []
        for i, column in enumerate(columns):
            is_index = i in first.indices
            is_fixed = len(set(column)) == 1 and not is_index and column not in counted
            own = (is_index, column)
            slots.append(None if is_fixed else symbols.setdefault(own, len(symbols)))
        fixed = tuple(n if slot is None else 0 for n, slot in zip(first.ints, slots, strict=True))
        lowest = (
            None if is_index else SMALL if min(column) >= 2 * SMALL else 2
            for is_index, column in symbols
        )
        return cls(tuple(slots), fixed, tuple(lowest))

    @classmethod
    def of_one(cls, region: Region) -> Shape:
        """This region's, without symbols."""
        return cls((None,) * len(region.ints), region.ints, ())

    def values(self, ints: Sequence[int]) -> tuple[int, ...] | None:
        """The symbols' values in a region, None if the region is not of this shape."""
        found: dict[int, int] = {}
        for n, slot, fixed in zip(ints, self.slots, self.fixed, strict=True):
            if slot is None:
                if n != fixed:
                    return None
            elif found.setdefault(slot, n) != n or n < (self.lowest[slot] or 0):
                return None
        return tuple(found[i] for i in range(len(self.lowest)))


@dataclass(frozen=True)
class Symbolic:
    """A kind's graph.

    Attributes:
        graph: placeholders are the symbols, then the region's inputs.
        inputs: fake values of these, in a mode and a shape environment of their own.
        symbols: the symbols' expressions.
    """

    graph: GraphModule
    inputs: list[Any]
    symbols: tuple[Any, ...]
    mode: FakeTensorMode

    @property
    def env(self) -> ShapeEnv:
        """Holds what was assumed of the symbols."""
        env = self.mode.shape_env
        assert env is not None
        return env

    def holds_for(self, values: Sequence[int]) -> bool:
        """Do these values meet everything that was assumed while the graph was traced?"""
        known = dict(zip(self.symbols, values, strict=True))
        return all(guard.expr.xreplace(known) == True for guard in self.env.guards)  # noqa: E712

    def at(self, size: Any, values: Sequence[int]) -> int:
        """A size at the symbols' values."""
        if isinstance(size, int):
            return size
        expression = self.env.simplify(size.node.expr)
        return int(expression.xreplace(dict(zip(self.symbols, values, strict=True))))


def symbolic(region: Region, shape: Shape, trained: Sequence[bool]) -> Symbolic:
    """The graph of a kind, as seen from one of its regions.

    Args:
        trained: which of the region's inputs require gradients.
    """
    env = ShapeEnv(duck_shape=False)
    mode = FakeTensorMode(shape_env=env, allow_non_fake_inputs=True)
    values = shape.values(region.ints)
    assert values is not None
    expressions, symbols = [], []
    for i, (value, lowest) in enumerate(zip(values, shape.lowest, strict=True)):
        source = ConstantSource(f"count_{i}")
        expression = env.create_symbol(
            value,
            source,
            DimDynamic.DYNAMIC,
            None,
            positive=None if lowest is None else True,
            do_not_specialize_zero_one=lowest is None,
        )
        if lowest is not None:
            env.constrain_symbol_range(expression, lowest, int_oo)
        expressions.append(expression)
        symbols.append(env.create_symintnode(expression, hint=value, source=source))
    graph, at_inputs = _graph(region, shape)
    with mode:
        inputs = [
            _fake(node, requires_grad, at_inputs, symbols)
            for node, requires_grad in zip(region.inputs, trained, strict=True)
        ]
    return Symbolic(graph, [*symbols, *inputs], tuple(expressions), mode)


def _graph(region: Region, shape: Shape) -> tuple[GraphModule, Iterator[int | tuple[int]]]:
    """The graph, and what stands for the integers of its inputs: a number or (a symbol,)."""
    graph = Graph()
    counts = [graph.placeholder(f"count_{i}") for i in range(len(shape.lowest))]
    copies: dict[Node, Node] = {
        node: graph.placeholder(f"input_{i}") for i, node in enumerate(region.inputs)
    }
    left = iter(
        fixed if slot is None else (slot,)
        for slot, fixed in zip(shape.slots, shape.fixed, strict=True)
    )

    def integer() -> Any:
        n = next(left)
        return counts[n[0]] if isinstance(n, tuple) else n

    def copied(x: Any, kind: str) -> Any:
        if isinstance(x, Node):
            return copies[x]
        if isinstance(x, tuple | list):
            return type(x)(copied(item, kind) for item in x)
        return integer() if type(x) is int and may_differ(x, kind) else x

    for node in region.nodes:
        types, by_name = types_of(node)
        args = tuple(copied(x, kind) for x, kind in zip(node.args, types, strict=True))
        named = {name: copied(x, by_name.get(name, "")) for name, x in sorted(node.kwargs.items())}
        copies[node] = graph.create_node(node.op, node.target, args, named, name=node.name)
        # Where in the model an op comes from; not its value, which is that of one region.
        copies[node].meta = {k: v for k, v in node.meta.items() if k in _KEPT}
    graph.output(tuple(copies[region.nodes[i]] for i in region.outputs))
    return GraphModule(torch.nn.Module(), graph), left


_KEPT = ("nn_module_stack", "stack_trace", "source_fn_stack", "custom")


def _fake(node: Node, requires_grad: bool, left: Iterator[Any], symbols: Sequence[Any]) -> Any:
    """The fake value of an input, its integers as the reader of ``structure`` met them."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return value

    def integer(n: int) -> Any:
        if not may_differ(n, SYMBOLIC):
            return n
        known = next(left)
        return symbols[known[0]] if isinstance(known, tuple) else known

    sizes = [integer(n) for n in value.shape]
    order = dense_order(value.shape, value.stride())
    if order is None:
        strides = [integer(n) for n in value.stride()]
    else:
        strides = _dense_strides(sizes, order)
    fake = torch.empty_strided(sizes, strides, dtype=value.dtype, device=value.device)
    return fake.requires_grad_(requires_grad)


def _dense_strides(sizes: Sequence[Any], order: Sequence[int]) -> list[Any]:
    strides: list[Any] = [1] * len(sizes)
    below: Any = 1
    for i in reversed(order):
        strides[i] = below
        below = below * sizes[i]
    return strides
