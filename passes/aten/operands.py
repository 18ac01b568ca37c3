"""What an op takes from each of its operands: values, or only a dtype, a device or a shape.

A result depends on no value of an operand that *lends*: it is not computed from it, is not what it
meets in a broadcast, and is not masked by it. Every stage that asks what a value was computed from
asks here.
"""

from __future__ import annotations

import torch.utils._pytree as pytree
from torch.fx import Node

from pitome_fx.passes.aten.families import LENT


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
