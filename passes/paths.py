"""Identity paths: where every token of a tensor still is a token of its own after an op.

What an op hands on is asked of its rule, by giving one operand axes of a new name and looking for
them in the result. So there is no list of ops here: a sum hands on what both summands hold, a
reshape whatever it regroups, a product everything but what it sums over.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch.fx import Node

from pitome_fx.passes.axes import (
    Atom,
    Axis,
    Dim,
    Size,
    TokenTensor,
    amounts,
    same_size,
)
from pitome_fx.passes.dataflow import is_tensor
from pitome_fx.passes.flops import COSTLY
from pitome_fx.passes.operands import value_operands
from pitome_fx.passes.replay import Replay
from pitome_fx.passes.rule import Lift, rule_for
from pitome_fx.passes.step import Step


class Paths:
    """What is handed on from operand to result, in a graph whose dimensions are labelled.

    Args:
        replay: the labelling run, with the values and dimensions of all nodes.
    """

    def __init__(self, replay: Replay) -> None:
        self.env = replay.env
        self.labels = replay.labels
        # Rules name what they make: these names are not the labels'.
        self._apart = Replay(replay.graph, replay.constant)
        self._known: dict[tuple[Node, Node], frozenset[Axis]] = {}

    def dims(self, node: Node) -> tuple[Dim, ...]:
        """The dimensions of a node's value, () for what is no tensor."""
        return self.labels.dims[node] if is_tensor(node) and node in self.labels.dims else ()

    def operands(self, node: Node) -> list[Node]:
        """The tensors that a value is made of; one of several results is made of all operands."""
        return [n for n in value_operands(_op_of(node)) if is_tensor(n)]

    def carries(self, node: Node, tokens: Dim) -> bool:
        """Has the value these tokens, each once, be it in one dimension or regrouped?"""
        units = {atom.axis for atom in tokens}
        held = amounts(self.dims(node), units)
        return all(unit in held and same_size(held[unit], unit.size) for unit in units)

    def hands_on(self, node: Node, source: Node) -> frozenset[Axis]:
        """Of the axes of an operand those that the result has too, entry by entry."""
        if (node, source) not in self._known:
            self._known[node, source] = self._survivors(node, source)
        return self._known[node, source]

    def keeps(self, node: Node, source: Node, tokens: Dim) -> bool:
        """Does every token of ``source`` reach itself, and itself alone?

        A product that sums over the tokens of one factor mixes them, whatever of the other one's
        it keeps: the weights of an attention know their query.
        """
        factors = self.operands(node) if node.target in COSTLY else []
        return all(
            self._of_tokens(operand, tokens) <= self.hands_on(node, operand)
            for operand in (source, *factors)
        )

    def keeps_all(self, node: Node, source: Node) -> bool:
        """Does every entry of ``source`` reach itself?"""
        return {a.axis for dim in self.dims(source) for a in dim} <= self.hands_on(node, source)

    def _of_tokens(self, node: Node, tokens: Dim) -> set[Axis]:
        units = {atom.axis for atom in tokens}
        axes = {atom.axis for dim in self.dims(node) for atom in dim}
        return {axis for axis in axes if axis.within(units) in units}

    def leads_from(
        self, roots: Iterable[Node], node: Node, tokens: Dim, *, whole: bool = False
    ) -> bool:
        """Does an identity path lead from one of the roots to the node?

        Args:
            whole: along the path not tokens alone but all their channels stay what they are.
        """
        roots = roots if isinstance(roots, set) else set(roots)
        stack, seen = [node], {node}
        while stack:
            current = stack.pop()
            if current in roots:
                return True
            for source in self.operands(current):
                if source in seen or not self.keeps(current, source, tokens):
                    continue
                if not whole or self.keeps_all(current, source):
                    seen.add(source)
                    stack.append(source)
        return False

    def _survivors(self, node: Node, source: Node) -> frozenset[Axis]:
        names: dict[Axis, Axis] = {}
        found = amounts(self._result(node, source, names))
        held: dict[Axis, Size] = {}
        for dim in self.dims(source):
            for atom in dim:
                held[atom.axis] = held.get(atom.axis, 1) * atom.axis.size
        return frozenset(
            axis
            for axis, size in held.items()
            if axis in names and names[axis] in found and same_size(found[names[axis]], size)
        )

    def _result(self, node: Node, source: Node, names: dict[Axis, Axis]) -> tuple[Dim, ...]:
        """The dimensions of the node's value if those of one operand had other names."""
        op = _op_of(node)
        others: dict[Axis, Axis] = {}
        rule = rule_for(op.target)
        if op.op != "call_function" or rule is None:
            return ()

        def operand(n: Node) -> Any:
            def renamed(x: TokenTensor) -> TokenTensor:
                dims = _renamed(x.dims, names if n is source else others, weak=n is not source)
                return replace(x, dims=dims)

            return pytree.tree_map_only(TokenTensor, renamed, self.env[n])

        args, kwargs = torch.fx.node.map_arg((op.args, dict(op.kwargs)), operand)
        try:
            value = rule(Step(self._apart, op), *args, **kwargs)
        except Lift:
            return ()
        if op is not node:
            index: Any = node.args[1]
            value = value[index]
        return value.dims if isinstance(value, TokenTensor) else ()


def _op_of(node: Node) -> Node:
    """The op that yields a value, which may be one of its several results."""
    source = node.args[0] if node.target is operator.getitem else node
    assert isinstance(source, Node)
    return source


def _renamed(dims: Iterable[Dim], names: dict[Axis, Axis], *, weak: bool) -> tuple[Dim, ...]:
    """The dimensions with an axis of its own for every axis. Weak ones give way to others."""
    return tuple(
        tuple(Atom(names.setdefault(atom.axis, Axis(atom.axis.size, weak))) for atom in dim)
        for dim in dims
    )
