"""What an op makes of the dimensions of its operands, asked of its token rule under other names.

So there is no second list of ops and of what they do to shapes: a sum hands on what both summands
hold, a reshape whatever it regroups, a product everything but what it sums over.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch.fx import Node

from pitome_fx.passes.replay.interpreter import Replay
from pitome_fx.passes.replay.step import Step
from pitome_fx.passes.tokens.dims import Dim, TokenTensor
from pitome_fx.passes.tokens.rule import Lift, rule_for

Naming = Callable[[Node, tuple[Dim, ...]], tuple[Dim, ...]]


class Relabelling:
    """Asks the token rules of a labelled graph again.

    Args:
        replay: the labelling run, with the values and dimensions of all nodes.
    """

    def __init__(self, replay: Replay) -> None:
        self.env = replay.env
        # Rules name what they make: these names are not the labels'.
        self._apart = Replay(replay.graph, replay.constant)

    def dims(self, node: Node, naming: Naming) -> tuple[Dim, ...] | None:
        """The dimensions of a node's value if those of its operands had the names that are given.

        None where no rule says.
        """
        op = op_of(node)
        rule = rule_for(op.target)
        if op.op != "call_function" or rule is None:
            return None

        def operand(source: Node) -> Any:
            return pytree.tree_map_only(
                TokenTensor,
                lambda x: replace(x, dims=naming(source, x.dims)),
                self.env[source],
            )

        args, kwargs = torch.fx.node.map_arg((op.args, dict(op.kwargs)), operand)
        try:
            value = rule(Step(self._apart, op), *args, **kwargs)
        except Lift:
            return None
        if op is not node:
            index: Any = node.args[1]
            value = value[index]
        return value.dims if isinstance(value, TokenTensor) else None


def op_of(node: Node) -> Node:
    """The op that yields a value, which may be one of its several results."""
    source = node.args[0] if node.target is operator.getitem else node
    assert isinstance(source, Node)
    return source
