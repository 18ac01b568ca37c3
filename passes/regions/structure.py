"""What makes two regions alike: ops, wiring, literals and operands, but for some integers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from pitome_fx.ops import is_pitome_op

ANY = "int"
"""Stands for an integer in which alike regions may differ."""

SYMBOLIC = "SymIntType"
"""What a schema calls an integer that may be a symbol."""

INDEX = "index"
"""An integer that counts nothing, so that 0 and 1 are like any other."""

INDICES = ("block", "blocks")
"""Arguments of pitome ops that are."""

AMOUNT = "amount"
"""How many tokens a merge removes, or leaves: may differ though it be the same in all seen."""

SAYS_COUNT = "pitome_says_count"
"""Marks nodes whose sizes are such."""

SIZES_AS_SCALARS = (
    torch.ops.aten.arange.default,
    torch.ops.aten.arange.start,
    torch.ops.aten.arange.start_step,
)
"""Ops whose scalars are sizes."""


@dataclass(eq=False)
class Region:
    """Consecutive nodes of a graph.

    Attributes:
        nodes: in order.
        inputs: values from elsewhere, in the order in which they are first used.
        key: equal for regions that are alike but for ``ints``.
        ints: integers at the places in which alike regions may differ; first those of the nodes,
            then sizes and strides of the inputs.
        indices: positions of those among them that may be 0 or 1.
        amounts: positions of those that say how many tokens a merge removes, or leaves.
        sizes: positions of those that are sizes of inputs, by (input, dimension).
        outputs: positions of those nodes whose values are used elsewhere.
    """

    nodes: list[Node]
    inputs: list[Node]
    key: Hashable
    ints: tuple[int, ...]
    indices: frozenset[int]
    amounts: frozenset[int]
    sizes: dict[tuple[int, int], int]
    outputs: list[int] = field(default_factory=list)


def region_of(nodes: Sequence[Node]) -> Region:
    """The region of these nodes, but for its outputs, which are those of all that are alike."""
    reader = _Reader()
    parts = [reader.read(node) for node in nodes]
    operands = [reader.operand(node) for node in reader.inputs]
    key = (tuple(parts), tuple(operands))
    inside = set(nodes)
    outputs = [i for i, node in enumerate(nodes) if any(user not in inside for user in node.users)]
    return Region(
        list(nodes),
        list(reader.inputs),
        key,
        tuple(reader.ints),
        frozenset(reader.indices),
        frozenset(reader.amounts),
        reader.sizes,
        outputs,
    )


class _Reader:
    """Reads nodes one after another; values are numbered in the order in which they come up."""

    def __init__(self) -> None:
        self.local: dict[Node, int] = {}
        self.inputs: dict[Node, int] = {}
        self.ints: list[int] = []
        self.indices: set[int] = set()
        self.amounts: set[int] = set()
        self.sizes: dict[tuple[int, int], int] = {}

    def read(self, node: Node) -> Hashable:
        """Op, arguments and kind of the result."""
        types, by_name = types_of(node)
        args = tuple(self.value(x, kind) for x, kind in zip(node.args, types, strict=True))
        kwargs = tuple(
            (name, self.value(x, by_name.get(name, ""))) for name, x in sorted(node.kwargs.items())
        )
        self.local[node] = len(self.local)
        target = node.target if _is_known(node.target) else id(node)
        return (target, args, kwargs)

    def value(self, x: Any, kind: str) -> Hashable:
        """An argument, without the integers that may differ."""
        if isinstance(x, Node):
            if x in self.local:
                return ("own", self.local[x])
            return ("input", self.inputs.setdefault(x, len(self.inputs)))
        if isinstance(x, tuple | list):
            return tuple(self.value(item, kind) for item in x)
        if type(x) is int and kind in (SYMBOLIC, INDEX, AMOUNT):
            return self.integer(x, kind)
        return (type(x).__name__, repr(x))

    def integer(self, n: int, kind: str = SYMBOLIC) -> Hashable:
        """Of a size 0 and 1 mean something else, and what counts from the end as well."""
        if not may_differ(n, kind):
            return n
        if kind == INDEX:
            self.indices.add(len(self.ints))
        if kind == AMOUNT:
            self.amounts.add(len(self.ints))
        self.ints.append(n)
        return ANY

    def length(self, at: int, dim: int, n: int) -> Hashable:
        """A size of an input."""
        if may_differ(n, SYMBOLIC):
            self.sizes[at, dim] = len(self.ints)
        return self.integer(n)

    def operand(self, node: Node) -> Hashable:
        """What an input is: all but the lengths of its dimensions."""
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            return (type(value).__name__, repr(value))
        at = self.inputs[node]
        sizes = tuple(self.length(at, i, n) for i, n in enumerate(value.shape))
        order = dense_order(value.shape, value.stride())
        strides = tuple(self.integer(n) for n in value.stride()) if order is None else order
        return (value.dtype, value.device, sizes, order is None, strides, type(value).__name__)


def may_differ(n: int, kind: str) -> bool:
    """May regions that are alike have another integer in its place?"""
    return kind == INDEX or (kind in (SYMBOLIC, AMOUNT) and n >= 2)


def dense_order(sizes: Sequence[int], strides: Sequence[int]) -> tuple[int, ...] | None:
    """Dimensions from the outermost to the innermost where the strides follow from the sizes."""
    order = sorted(range(len(sizes)), key=lambda i: (-strides[i], i))
    expected = 1
    for i in reversed(order):
        if strides[i] != expected:
            return None
        expected *= max(sizes[i], 1)
    return tuple(order)


def _is_known(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) or getattr(target, "__module__", "") in (
        "_operator",
        "torch._C",
        "torch.amp.autocast_mode",
    )


def types_of(node: Node) -> tuple[list[str], dict[str, str]]:
    """Kinds of a node's arguments as its schema has them, by position and by name."""
    target = node.target
    arguments = target._schema.arguments if isinstance(target, torch._ops.OpOverload) else ()
    named = {argument.name: _type(argument) for argument in arguments}
    if is_pitome_op(node.target):
        named.update(dict.fromkeys(INDICES, INDEX) if "block" in named else {})
        named.update({"k": AMOUNT} if "k" in named else {})
    if SAYS_COUNT in node.meta:
        named["size"] = AMOUNT
    if node.target in SIZES_AS_SCALARS:
        named = {k: SYMBOLIC if kind == "NumberType" else kind for k, kind in named.items()}
    missing = len(node.args) - len(named)
    return [*named.values(), *[""] * missing][: len(node.args)], named


def _type(argument: Any) -> str:
    """Of an argument in a schema: its own, or that of the items of a list."""
    kind = argument.real_type
    while isinstance(kind, torch.ListType | torch.OptionalType):
        kind = kind.getElementType()
    return str(kind.kind())
