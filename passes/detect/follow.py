"""What becomes of scores: products of queries and keys, followed to the product with values.

A product has a dimension of queries and one of keys. They may be the same tokens, so both get
marked axes, and the token rules label what is computed from the product anew: whatever carries both
is scores, or weights, however it is spelled. The product that sums over one of the two is the one
with the values, and so these were the keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch.fx import Node

from pitome_fx.passes.aten.families import (
    ADDMM,
    ALIKE,
    EXPONENTIAL,
    LOG_SOFTMAX,
    SCALING,
    SDPA,
    SOFTMAX,
)
from pitome_fx.passes.aten.nodes import is_one, is_tensor, rank_of
from pitome_fx.passes.aten.operands import value_operands
from pitome_fx.passes.detect.marks import Mark, Marks
from pitome_fx.passes.detect.products import Product, arguments, product_of
from pitome_fx.passes.detect.scores import Meeting, Scores, Weighing
from pitome_fx.passes.replay.interpreter import Replay
from pitome_fx.passes.rules.pointwise import pointwise
from pitome_fx.passes.tokens.axes import Axis
from pitome_fx.passes.tokens.dims import Atom, TokenTensor, is_single
from pitome_fx.passes.tokens.rule import rule_for
from pitome_fx.passes.tokens.sizes import same_size

aten = torch.ops.aten


class Follower:
    """Follows all scores of a labelled graph in one walk.

    Attributes:
        weighings: every product of weights and values that was found, in graph order.
        by_element: where weights are multiplied with something larger, and what is known of them.
        marks: the axes that stand for queries and keys.
    """

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.marks = Marks()
        self.weighings: list[Weighing] = []
        self.by_element: list[tuple[Node, Scores]] = []
        self._anew = Replay(replay.graph, replay.constant)
        self._values: dict[Node, Any] = {}
        self._scores: dict[Node, Scores] = {}
        self._derived: dict[Node, frozenset[Node]] = {}
        for node in replay.graph.graph.nodes:
            if node.op == "call_function":
                self._visit(node)

    def _visit(self, node: Node) -> None:
        carriers = [source for source in value_operands(node) if source in self._scores]
        known = [source for source in carriers if self._scores[source].products]
        product = product_of(node)
        if product is not None:
            if carriers and self._weighs(node, product):
                return
            if not self._is_constant(product.left.node, product.right.node):
                self._begin(node, product)
                return
        if carriers:
            followed = self._follow(node, known or carriers, product)
        else:
            followed = node.target in (*SOFTMAX, *LOG_SOFTMAX) and self._begin_unknown(node)
        if not followed and product is None and node.target != SDPA:
            self._derive(node)

    def _is_constant(self, *nodes: Node) -> bool:
        return any(node in self.replay.constant for node in nodes)

    def _begin(self, node: Node, product: Product) -> None:
        """Mark the dimensions that only one factor has: queries and keys, either of them."""
        labels = self.replay.labels.dims
        dims = list(labels[node])
        for side, factor in (("left", product.left), ("right", product.right)):
            own = labels[factor.node]
            outer = [(at, to) for at, to in factor.outer if not is_single(own[at])]
            if not outer or not factor.inner:
                return
            for at, to in outer:
                dims[to] = self.marks.put(side, own[at])
        value = TokenTensor(node.meta["val"], tuple(dims), origin=node)
        given = arguments(node)
        added = [given["self"]] if node.target in ADDMM and given.get("beta", 1) != 0 else []
        self._keep(node, value, self._met(node, value, Scores(frozenset({node})), (), added))

    def _begin_unknown(self, node: Node) -> bool:
        """A softmax whose scores are no product: its weights can be followed all the same."""
        dims = list(self.replay.labels.dims[node])
        at = arguments(node)["dim"]
        if len(dims) < 3 or is_single(dims[at]):
            return False
        dims[at] = self.marks.put("softmax", dims[at])
        marks = self.marks.of(dims[at])
        state = Scores(frozenset({node}), (), (node,), marks, weighing=True)
        self._keep(node, TokenTensor(node.meta["val"], tuple(dims), origin=node), state)
        return True

    def _keep(self, node: Node, value: Any, state: Scores) -> None:
        self._values[node], self._scores[node] = value, state

    def _weighs(self, node: Node, product: Product) -> bool:
        """Note a product with values; is it an attention's, so that it begins no other?"""
        is_end = False
        for weights, values in ((product.left, product.right), (product.right, product.left)):
            state, value = self._scores.get(weights.node), self._values.get(weights.node)
            if state is None or not isinstance(value, TokenTensor):
                continue
            keys = self.marks.of(*(value.dims[at] for at in weights.inner))
            if keys and (keys <= state.normalised or not self._is_constant(values.node)):
                found = Weighing(node, state, value.dims, keys, values)
                self.weighings.append(found)
                is_end |= bool(state.products) and not self.is_bilinear(found)
        return is_end

    def is_bilinear(self, found: Weighing) -> bool:
        """Is it but a chain of products, of which none pairs tokens with themselves?

        Queries that are turned by a matrix, say, are no scores yet.
        """
        others = {axis for _, axis in self.marks.of(*found.dims) - found.keys}
        return found.weights.linear and not others.issuperset(axis for _, axis in found.keys)

    def softmaxes_over(self, keys: frozenset[Mark], nodes: Iterable[Node]) -> tuple[Node, ...]:
        """Those of the softmaxes that run over these marks."""
        return tuple(
            n for n in nodes if keys & self.marks.of(self._values[n].dims[arguments(n)["dim"]])
        )

    def _follow(self, node: Node, carriers: list[Node], product: Product | None) -> bool:
        """Label what is computed from scores; they end where the marks do."""
        before = [self._values[source] for source in carriers]
        if not self._sides(*before) or (product is not None and self._sums_marked(product)):
            return False
        value = self._anew.computed(node, lambda n: self._operand(n, n in carriers))
        state = self._joined(node, carriers)
        if isinstance(value, TokenTensor):
            first = before[0]
            if not self._is_marked(value, before):
                if not isinstance(first, TokenTensor) or not _has_shape_of(first, value):
                    return False
                # Taken to leave queries and keys where they were; the reason will name the op.
                value = replace(value, dims=first.dims)
                state = replace(state, oddities=(*state.oddities, node))
            elif rule_for(node.target) is pointwise:
                if self._is_spread(value, before):
                    self.by_element.append((node, state))
                    return False
                if not all(self._agree(own, value) for own in before):
                    state = replace(state, oddities=(*state.oddities, node))
                state = self._met(node, value, state, carriers, value_operands(node))
            elif self._is_stacked(node, value, carriers):
                state = replace(state, oddities=(*state.oddities, node))
            state = _after(node, state, value, self.marks)
        self._keep(node, value, state)
        return True

    def _sums_marked(self, product: Product) -> bool:
        factors = [f for f in (product.left, product.right) if f.node in self._values]
        return any(
            self.marks.of(*(self._values[f.node].dims[at] for at in f.inner)) for f in factors
        )

    def _operand(self, node: Node, is_marked: bool) -> Any:
        """Nothing but scores may give its name to queries or keys."""
        if is_marked:
            return self._values[node]
        return pytree.tree_map_only(TokenTensor, _nameless, self.replay.env[node])

    def _joined(self, node: Node, carriers: list[Node]) -> Scores:
        """What is known of scores that meet."""
        states = [self._scores[source] for source in carriers]
        joined = states[0]
        for state in states[1:]:
            joined = Scores(
                joined.origins | state.origins,
                tuple(dict.fromkeys(joined.meetings + state.meetings)),
                tuple(dict.fromkeys(joined.softmaxes + state.softmaxes)),
                joined.normalised & state.normalised,
                joined.weighing or state.weighing,
                joined.linear and state.linear,
                tuple(dict.fromkeys(joined.oddities + state.oddities)),
            )
        return joined

    def _sides(self, *values: Any) -> set[str]:
        tensors = [x for x in pytree.tree_leaves(values) if isinstance(x, TokenTensor)]
        return {side for x in tensors for side, _ in self.marks.of(*x.dims)}

    def _is_marked(self, value: TokenTensor, before: list[Any]) -> bool:
        """Does it carry queries and keys, as the scores did?"""
        return self._sides(value) == self._sides(*before)

    def _agree(self, scores: Any, value: TokenTensor) -> bool:
        """Are the queries and keys of these scores those of what they broadcast to?"""
        return all(
            self.marks.of(dim) <= self.marks.of(value.dims[at - len(scores.dims)])
            for at, dim in enumerate(scores.dims)
        )

    def _is_spread(self, value: TokenTensor, before: list[Any]) -> bool:
        """Are scores copied over further dimensions, as for a product by hand?"""
        places = self.marks.places(value.dims, self.marks.of(*value.dims))
        return any(
            not is_one(value.data.shape[at])
            and all(is_one(x.data.shape[at]) for x in before if len(x.dims) >= -at)
            for at in range(min(places) + 1, 0)
        )

    def _is_stacked(self, node: Node, value: TokenTensor, carriers: list[Node]) -> bool:
        """Are scores put beside what is none, but not along their queries or keys (as a sink is)?

        That could be a mask, in a sum over both.
        """
        if node.target not in (aten.cat.default, aten.stack.default):
            return False
        others = [n for n in node.all_input_nodes if n not in carriers]
        dim = arguments(node).get("dim", 0)
        return bool(others) and not self.marks.of(value.dims[dim])

    def _met(
        self,
        node: Node,
        value: TokenTensor,
        state: Scores,
        scores: Sequence[Node],
        sources: Iterable[Node],
    ) -> Scores:
        """The scores, after other tensors met them along queries or keys."""
        places = self.marks.places(value.dims, self.marks.of(*value.dims))
        met = tuple(
            Meeting(other, node, tuple(scores), value.dims, state.weighing)
            for other in sources
            if is_tensor(other)
            and other not in scores
            and not self._derived.get(other, frozenset()) & state.origins
            and any(
                rank_of(other) >= -at and not is_one(other.meta["val"].shape[at]) for at in places
            )
        )
        return replace(state, meetings=tuple(dict.fromkeys(state.meetings + met)))

    def _derive(self, node: Node) -> None:
        """Note of what is no scores itself which scores it was computed from."""
        found = [
            self._scores[n].origins if n in self._scores else self._derived.get(n, frozenset())
            for n in value_operands(node)
        ]
        origins = frozenset[Node]().union(*found)
        if origins:
            self._derived[node] = origins


def _has_shape_of(x: TokenTensor, y: TokenTensor) -> bool:
    return len(x.dims) == len(y.dims) and all(map(same_size, x.data.shape, y.data.shape))


def _nameless(x: TokenTensor) -> TokenTensor:
    dims = tuple(() if is_one(n) else (Atom(Axis(n, weak=True)),) for n in x.data.shape)
    return replace(x, dims=dims)


def _after(node: Node, state: Scores, value: TokenTensor, marks: Marks) -> Scores:
    """What is known of scores after one more op."""
    softmaxes, normalised = state.softmaxes, state.normalised
    if node.target in SOFTMAX:
        softmaxes = (*softmaxes, node)
        normalised |= marks.of(value.dims[arguments(node)["dim"]])
    return replace(
        state,
        softmaxes=softmaxes,
        normalised=normalised,
        weighing=state.weighing or node.target in EXPONENTIAL,
        linear=state.linear and _is_linear(node, state),
    )


def _is_linear(node: Node, state: Scores) -> bool:
    """Is it a scale, or a change of layout?"""
    if node.target in (*SOFTMAX, *LOG_SOFTMAX, aten.cat.default) or node in state.oddities:
        return False
    return rule_for(node.target) is not pointwise or node.target in (*SCALING, *ALIKE)
