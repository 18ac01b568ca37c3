"""What an op takes from each of its operands: values, or only a dtype, a device or a shape.

A result depends on no value of an operand that *lends*: it is not computed from it, is not what it
meets in a broadcast, and is not masked by it. Every stage that asks what a value was computed from
asks here.
"""

from __future__ import annotations

import torch
import torch.utils._pytree as pytree
from torch._ops import OpOverload
from torch.fx import Node

from pitome_fx.passes.rule import pure_overloads

aten = torch.ops.aten

FILLS = (aten.zeros_like, aten.ones_like, aten.full_like, aten.empty_like, aten.zero, aten.fill)
"""A value for all elements, in the shape of the first operand."""

DRAWS = (
    aten.rand_like,
    aten.randn_like,
    aten.randint_like.default,
    aten.randint_like.generator,
    aten.randint_like.low_dtype,
    aten.randint_like.low_generator_dtype,
    aten.bernoulli.p,
    aten.bernoulli.Tensor,
    aten.random.default,
    aten.random.to,
    aten.uniform,
    aten.normal_functional,
    aten.exponential,
    aten.geometric,
    aten.cauchy,
    aten.log_normal,
)
"""A random value for each element, in the shape of the first operand."""

NEW = (aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty, aten.new_empty_strided)
"""A tensor of a size given in numbers."""

CASTS = (aten.to.other, aten.type_as)
"""The first operand, in the dtype and on the device of the second."""

RESHAPES = (aten.view_as, aten.reshape_as)
"""The first operand, in the shape of the second."""

_LENDERS = {
    "self": (*FILLS, *DRAWS, *NEW, aten.copy.default),
    "other": (*CASTS, *RESHAPES, aten.expand_as),
}

LENT: dict[OpOverload, str] = {
    op: argument for argument, ops in _LENDERS.items() for op in pure_overloads(*ops)
}
"""Which argument of an op only lends."""

SAME_VALUES = pure_overloads(
    *CASTS,
    aten.to.dtype,
    aten.to.device,
    aten.to.dtype_layout,
    aten._to_copy,
    aten.contiguous,
    aten.clone,
    aten.alias,
    aten.detach,
    aten.lift_fresh_copy,
)
"""Ops whose result is their first operand, in another dtype, elsewhere, or as it is."""


def value_operands(node: Node) -> list[Node]:
    """The nodes whose values a node is computed from."""
    lent = LENT.get(node.target)  # type: ignore[call-overload]
    if lent is None:
        return node.all_input_nodes
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    given.pop(lent)
    leaves = pytree.tree_leaves(list(given.values()))
    return list(dict.fromkeys(leaf for leaf in leaves if isinstance(leaf, Node)))
