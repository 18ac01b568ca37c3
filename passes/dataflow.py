"""What can be known of a value from its sub-graph alone: its value, where it varies, its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.fx import Node

from pitome_fx.passes.axes import divided, hint, same_size
from pitome_fx.passes.bounds import HERE, Bounds
from pitome_fx.passes.operands import SAME_VALUES, value_operands
from pitome_fx.passes.rule import is_tagged_pointwise

BROADCASTING = (
    *(op._schema.name.removeprefix("aten::") for op in SAME_VALUES),
    "expand",
    "broadcast_to",
    "expand_as",
    "copy",
    "fill",
    "where",
    "masked_fill",
    "__and__",
    "__or__",
    "__xor__",
)
CONSTANT_FILL = (
    "zeros",
    "ones",
    "full",
    "zeros_like",
    "ones_like",
    "full_like",
    "zero",
    "new_zeros",
    "new_ones",
    "new_full",
)
REGROUPING = ("view", "reshape", "squeeze", "flatten", "unflatten")


@dataclass
class Dataflow:
    """Facts on the nodes of one graph. Every answer is certain; "may vary" is the default.

    Attributes:
        written: nodes whose tensors share memory with one that is written in place, so that their
            values are not what they were made as.
    """

    written: frozenset[Node] = frozenset()
    bounds: Bounds = field(init=False)
    _varies: dict[Node, tuple[bool, ...]] = field(default_factory=dict)
    _values: dict[Node, Tensor | None] = field(default_factory=dict)
    _examples: dict[Node, Any] = field(default_factory=dict)
    _numbers: dict[Any, int] = field(default_factory=dict)
    _number_of: dict[Node, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bounds = Bounds(self.evaluate, self.written)

    def known(self, node: Node) -> Tensor | None:
        """The value of a node that is the same for every input: all of it, or the one number that
        it holds everywhere though its sizes are symbolic. None for any other."""
        value = self.evaluate(node)
        if value is None and is_tensor(node):
            number = self.bounds.only_value(node)
            if number is not None:
                with unset_fake_temporarily():
                    ones, dtype = (1,) * rank_of(node), node.meta["val"].dtype
                    value = torch.full(ones, number, dtype=dtype, device=HERE)
        return value

    def varies_along(self, node: Node, dim: int) -> bool:
        """May the values differ along a dimension (counted from the end)?"""
        varies = self.varies(node)
        return -dim <= len(varies) and varies[dim]

    def varies(self, node: Node) -> tuple[bool, ...]:
        """Per dimension: may the values differ along it?"""
        if node not in self._varies:
            shape = node.meta["val"].shape
            self._varies[node] = tuple(
                v and not is_one(size) for v, size in zip(self._derive(node), shape, strict=True)
            )
        return self._varies[node]

    def _derive(self, node: Node) -> tuple[bool, ...]:
        rank = rank_of(node)
        value = self.evaluate(node)
        if value is not None:
            return tuple(bool((value != value.narrow(d, 0, 1)).any()) for d in range(rank))
        if node in self.written or not isinstance(node.target, torch._ops.OpOverload):
            return (True,) * rank
        name = node.target._schema.name.removeprefix("aten::")
        if name in CONSTANT_FILL or self.bounds.only_value(node) is not None:
            return (False,) * rank
        if name in BROADCASTING or is_tagged_pointwise(node.target):
            return self._broadcast([n for n in value_operands(node) if is_tensor(n)], rank)
        moved = self._moved(node, name, rank)
        return (True,) * rank if moved is None else moved

    def _broadcast(self, sources: list[Node], rank: int) -> tuple[bool, ...]:
        result = [False] * rank
        for source in sources:
            for i, v in enumerate(self.varies(source)[::-1]):
                result[rank - 1 - i] |= v
        return tuple(result)

    def _moved(self, node: Node, name: str, rank: int) -> tuple[bool, ...] | None:
        """Ops that move whole dimensions; None for any other."""
        args: Any = node.args
        source = args[0]
        if not isinstance(source, Node) or not is_tensor(source):
            return None
        if name == "index":
            indices = [i for i in args[1] if i is not None]
            if len(indices) == len(args[1]) == rank_of(source):
                return self._broadcast(indices, rank)
            return None
        known = list(self.varies(source))
        if name in REGROUPING:
            same = _same_shape_before(node)
            if same is not None:
                return self.varies(same)
            return _regrouped(known, source.meta["val"].shape, node.meta["val"].shape)
        if name == "unsqueeze":
            known.insert(args[1] % rank, False)
        elif name == "transpose":
            known[args[1]], known[args[2]] = known[args[2]], known[args[1]]
        elif name == "permute":
            known = [known[d] for d in args[1]]
        elif name == "select":
            del known[args[1]]
        elif name != "slice":
            return None
        return tuple(known)

    def evaluate(self, node: Node) -> Tensor | None:
        """The value of a sub-graph that depends on no graph input, None for any other."""
        if node not in self._values:
            value = None
            if node.op == "call_function" and not _is_sized(node):
                value = _computed(node, self.evaluate)
            elif node.op == "get_attr":
                value = _literal(node)
            if node in self.written:
                value = None
            self._values[node] = value
        return self._values[node]

    def example(self, node: Node) -> Any:
        """What a sub-graph of constants and sizes yields at the sizes it was traced with."""
        if node not in self._examples:
            size = node.meta.get("val")
            value = self.evaluate(node)
            if isinstance(size, torch.SymInt):
                value = size.node.hint
            elif value is None and node.op == "call_function" and node not in self.written:
                value = _computed(node, self.example)
            self._examples[node] = value
        return self._examples[node]

    def number(self, node: Node) -> int:
        """Equal numbers for sub-graphs that compute the same (value numbering)."""
        if node not in self._number_of:
            key: Any = node
            if node.op == "call_function" and node not in self.written and not _draws(node):
                args = torch.fx.node.map_arg(
                    (node.args, dict(node.kwargs)), lambda n: f"#{self.number(n)}"
                )
                key = (node.target, repr(args))
            self._number_of[node] = self._numbers.setdefault(key, len(self._numbers))
        return self._number_of[node]


def _draws(node: Node) -> bool:
    """Does the op draw at random, so that twice the same call is not twice the same value?"""
    tags = getattr(node.target, "tags", ())
    return torch.Tag.nondeterministic_seeded in tags


def _is_sized(node: Node) -> bool:
    """Has the node's tensor a symbolic size?"""
    return is_tensor(node) and any(not isinstance(n, int) for n in node.meta["val"].shape)


def _computed(node: Node, value_of: Callable[[Node], Any]) -> Tensor | None:
    """What a node yields on the values of its operands, None if one of them is not known."""
    values = {source: value_of(source) for source in value_operands(node)}
    if any(value is None for value in values.values()) or not is_tensor(node):
        return None
    values |= {n: _blank(n) for n in node.all_input_nodes if n not in values}
    if not isinstance(node.target, torch._ops.OpOverload) or node.target._schema.is_mutable:
        return None
    if _draws(node):
        return None
    args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), values.__getitem__)
    args, kwargs = pytree.tree_map_only(torch.device, lambda _: HERE, (args, kwargs))
    with unset_fake_temporarily(), torch.no_grad():
        result = node.target(*args, **kwargs)
    return result if isinstance(result, Tensor) else None


def _blank(node: Node) -> Tensor:
    """A tensor to lend its dtype and the shape that it was traced with, of no memory."""
    like: Tensor = node.meta["val"]
    with unset_fake_temporarily():
        sizes = [hint(size) for size in like.shape]
        return torch.zeros((), dtype=like.dtype, device=HERE).expand(sizes)


def _literal(node: Node) -> Tensor | None:
    """A tensor written out in the forward; parameters and buffers are inputs of the graph."""
    module = node.graph.owning_module
    value = getattr(module, str(node.target), None)
    if not isinstance(value, Tensor) or isinstance(value, FakeTensor):
        return None
    return value.detach().cpu()


def _same_shape_before(node: Node) -> Node | None:
    """The value that a chain of reshapes brings back to the shape it had, None if it does not."""
    current = node
    while isinstance(current.target, torch._ops.OpOverload):
        name = current.target._schema.name.removeprefix("aten::")
        source = current.args[0] if current.args else None
        if name not in REGROUPING or not isinstance(source, Node) or not is_tensor(source):
            return None
        current = source
        if current.meta["val"].shape == node.meta["val"].shape:
            return current
    return None


def _regrouped(known: Sequence[bool], old: Any, new: Any) -> tuple[bool, ...] | None:
    """Variation after a reshape: a new dimension varies if an old one it shares elements with does.

    Old and new dimensions are taken until their products agree; None where that cannot be told.
    """
    sources = [(size, v) for size, v in zip(old, known, strict=True) if not is_one(size)]
    result = [False] * len(new)
    pending = [place for place, size in enumerate(new) if not is_one(size)]
    while pending and sources:
        before, varies = sources.pop(0)
        group = [pending.pop(0)]
        after = new[group[0]]
        while not same_size(before, after):
            if sources and _is_factor(before, after):
                size, also = sources.pop(0)
                before, varies = before * size, varies or also
            elif pending and _is_factor(after, before):
                group.append(pending.pop(0))
                after = after * new[group[-1]]
            else:
                return None
        for place in group:
            result[place] = varies
    return None if pending or sources else tuple(result)


def _is_factor(less: Any, more: Any) -> bool:
    """May further dimensions make the smaller product the larger one?"""
    if isinstance(less, int) and isinstance(more, int):
        return less < more
    return divided(more, less) is not None


def is_one(size: Any) -> bool:
    """Is a size the plain number 1?"""
    return isinstance(size, int) and size == 1


def is_tensor(node: Node) -> bool:
    """Does the node yield one tensor?"""
    return isinstance(node.meta.get("val"), Tensor)


def rank_of(node: Node) -> int:
    """Number of dimensions, 0 for what is no tensor."""
    return node.meta["val"].dim() if is_tensor(node) else 0


def is_float(node: Node) -> bool:
    """Does the node yield one floating-point tensor?"""
    return is_tensor(node) and node.meta["val"].is_floating_point()
