"""Identity paths: where every token of a tensor still is a token of its own after an op.

What an op hands on is asked of its rule, by giving one operand axes of a new name and looking for
them in the result.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch.fx import Node

from pitome_fx.passes.aten.families import COSTLY
from pitome_fx.passes.aten.nodes import is_tensor
from pitome_fx.passes.aten.operands import value_operands
from pitome_fx.passes.replay.interpreter import Replay
from pitome_fx.passes.replay.relabel import Relabelling, op_of
from pitome_fx.passes.tokens.axes import Axis
from pitome_fx.passes.tokens.dims import Atom, Dim, amounts
from pitome_fx.passes.tokens.sizes import Size, same_size


class Paths:
    """What is handed on from operand to result, in a graph whose dimensions are labelled.

    Args:
        replay: the labelling run, with the values and dimensions of all nodes.
    """

    def __init__(self, replay: Replay) -> None:
        self.labels = replay.labels
        self._relabelling = Relabelling(replay)
        self._known: dict[tuple[Node, Node], frozenset[Axis]] = {}

    def dims(self, node: Node) -> tuple[Dim, ...]:
        """The dimensions of a node's value, () for what is no tensor."""
        return self.labels.dims[node] if is_tensor(node) and node in self.labels.dims else ()

    def operands(self, node: Node) -> list[Node]:
        """The tensors that a value is made of; one of several results is made of all operands."""
        return [n for n in value_operands(op_of(node)) if is_tensor(n)]

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
        others: dict[Axis, Axis] = {}

        def naming(operand: Node, dims: tuple[Dim, ...]) -> tuple[Dim, ...]:
            is_source = operand is source
            return _renamed(dims, names if is_source else others, weak=not is_source)

        found = amounts(self._relabelling.dims(node, naming) or ())
        held: dict[Axis, Size] = {}
        for dim in self.dims(source):
            for atom in dim:
                held[atom.axis] = held.get(atom.axis, 1) * atom.axis.size
        return frozenset(
            axis
            for axis, size in held.items()
            if axis in names and names[axis] in found and same_size(found[names[axis]], size)
        )


def _renamed(dims: Iterable[Dim], names: dict[Axis, Axis], *, weak: bool) -> tuple[Dim, ...]:
    """The dimensions with an axis of its own for every axis. Weak ones give way to others."""
    return tuple(
        tuple(Atom(names.setdefault(atom.axis, Axis(atom.axis.size, weak))) for atom in dim)
        for dim in dims
    )
