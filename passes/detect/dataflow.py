"""What can be known of a value from its sub-graph alone: the value, and a name for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.fx import Node

from pitome_fx.passes.aten.nodes import is_tensor, rank_of
from pitome_fx.passes.aten.operands import value_operands
from pitome_fx.passes.detect.bounds import HERE, Bounds
from pitome_fx.passes.tokens.sizes import hint


@dataclass
class Dataflow:
    """Facts on the nodes of one graph. Every answer is certain; "may vary" is the default.

    Attributes:
        written: nodes whose tensors share memory with one that is written in place, so that their
            values are not what they were made as.
        literals: placeholders whose values are known.
    """

    written: frozenset[Node] = frozenset()
    literals: Mapping[Node, Tensor] = field(default_factory=dict)
    bounds: Bounds = field(init=False)
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

    def evaluate(self, node: Node) -> Tensor | None:
        """The value of a sub-graph that depends on no graph input, None for any other."""
        if node not in self._values:
            value = None
            if node.op == "call_function" and not _is_sized(node):
                value = _computed(node, self.evaluate)
            elif node.op == "get_attr":
                value = _literal(getattr(node.graph.owning_module, str(node.target), None))
            elif node in self.literals:
                value = _literal(self.literals[node])
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
            if node.op == "call_function" and node not in self.written and not draws(node):
                args = torch.fx.node.map_arg(
                    (node.args, dict(node.kwargs)), lambda n: f"#{self.number(n)}"
                )
                key = (node.target, repr(args))
            self._number_of[node] = self._numbers.setdefault(key, len(self._numbers))
        return self._number_of[node]


def draws(node: Node) -> bool:
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
    if draws(node):
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


def _literal(value: Any) -> Tensor | None:
    """A tensor written out in the forward; parameters and buffers are inputs of the graph."""
    if not isinstance(value, Tensor) or isinstance(value, FakeTensor):
        return None
    return value.detach().cpu()
