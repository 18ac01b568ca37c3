"""Linear attention, φ(q)·(φ(k)ᵀ·v): the product over tokens comes first; there are no scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.fx import Node

from pitome_fx.passes.aten.families import CONVOLUTIONS, FILLING, SCALING, WHERE
from pitome_fx.passes.aten.nodes import is_one, is_tensor, rank_of
from pitome_fx.passes.detect.marks import Mark
from pitome_fx.passes.detect.mask import Mask, MaskUse
from pitome_fx.passes.detect.products import Factor, product_of
from pitome_fx.passes.detect.scores import Weighing
from pitome_fx.passes.replay.labels import Labels
from pitome_fx.passes.rules.pointwise import pointwise
from pitome_fx.passes.tokens.axes import Axis
from pitome_fx.passes.tokens.dims import Dim
from pitome_fx.passes.tokens.rule import rule_for

aten = torch.ops.aten


@dataclass(frozen=True)
class Linear:
    """The parts of a linear attention.

    Attributes:
        keys: φ(k), with the places of its tokens and features.
        values: v.
        tokens: the dimension of keys and values that is summed over, and that queries have too.
    """

    node: Node
    query: Node
    keys: Node
    values: Node
    token_place: int
    feature_place: int
    tokens: Dim


def made_by_layers(labels: Labels) -> frozenset[Axis]:
    """Axes that a layer's weights give rise to: they are channels, and no tokens."""
    return frozenset(
        axis
        for (node, _, at), axis in labels.axes.items()
        if node.target == aten.linear.default or (node.target in CONVOLUTIONS and at == 1)
    )


def linear_attention(found: Weighing, labels: Labels, made: frozenset[Axis]) -> Linear | None:
    """A product with the tokens' queries of what was summed over the tokens before, if it is one.

    Something curved in between makes it attention over channels. With nothing curved, (q·kᵀ)·v and
    q·(kᵀ·v) are one shape with tokens and features exchanged: features are what a layer made.

    Args:
        made: axes that layers made.
    """
    if not found.weights.linear or len(found.weights.products) != 1:
        return None
    (node,) = found.weights.products
    product = product_of(node)
    assert product is not None
    own = [labels.dims[found.values.node][at] for at, _ in found.values.outer]
    for side, keys, values in (
        ("left", product.left, product.right),
        ("right", product.right, product.left),
    ):
        features = _places(keys, side, found.keys, labels)
        inner = [at for at in keys.inner if labels.dims[keys.node][at]]
        tokens = [at for at in inner if labels.dims[keys.node][at] in own]
        if features and tokens:
            dims = labels.dims[keys.node]
            token, feature = (len(dims) + places[-1] for places in (tokens, features))
            outer = [labels.dims[f.node][at] for f in (keys, values) for at, _ in f.outer]
            alike = outer.count(dims[feature]) > 1
            if _is_made(dims[token], made) or (alike and not _is_made(dims[feature], made)):
                continue
            query = found.values.node
            return Linear(node, query, keys.node, values.node, token, feature, dims[token])
    return None


def _is_made(dim: Dim, made: frozenset[Axis]) -> bool:
    return any(atom.axis.weak or _root(atom.axis) in made for atom in dim)


def _root(axis: Axis) -> Axis:
    """The axis that it is a window or a factor of, through and through."""
    larger = axis.base or axis.whole
    return axis if larger is None else _root(larger)


def _places(factor: Factor, side: str, marks: frozenset[Mark], labels: Labels) -> list[int]:
    """Which dimensions of its own have these marks."""
    dims = labels.dims[factor.node]
    return [at for at, _ in factor.outer if {(side, atom.axis) for atom in dims[at]} & marks]


def masks_of_tokens(linear: Linear, labels: Labels) -> list[Mask]:
    """What hides tokens from linear attention, where it meets keys or values."""
    found: dict[Node, Mask] = {}
    for root in (linear.keys, linear.values):
        for node in _pointwise_behind(root, linear.tokens, labels):
            for mask in _masks_at(node, linear.tokens, labels):
                found.setdefault(mask.node, mask)
    return list(found.values())


def _pointwise_behind(root: Node, tokens: Dim, labels: Labels) -> Iterator[Node]:
    """What computes keys or values after their linear layer, token by token."""
    stack, seen = [root], {root}
    while stack:
        node = stack.pop()
        if rule_for(node.target) is pointwise:
            yield node
        if product_of(node) is None:
            onward = [n for n in node.all_input_nodes if n not in seen and _has(n, tokens, labels)]
            seen.update(onward)
            stack += onward


def _has(node: Node, tokens: Dim, labels: Labels) -> bool:
    dims = labels.dims.get(node)
    return isinstance(dims, tuple) and dims.count(tokens) == 1 and rank_of(node) >= 3


def _masks_at(node: Node, tokens: Dim, labels: Labels) -> Iterator[Mask]:
    """Operands with one number for each token that no layer computes."""
    dims = labels.dims[node]
    if dims.count(tokens) != 1:
        return
    place = dims.index(tokens) - len(dims)
    for operand in node.all_input_nodes:
        if _is_number_per_token(operand, node, place) and not _is_computed(operand):
            first = node.args[1] if node.target in WHERE else node
            keeps = isinstance(first, Node) and _has(first, tokens, labels)
            yield Mask(operand, node, _use(node, keeps), queries=None, keys=place)


def _is_number_per_token(operand: Node, consumer: Node, place: int) -> bool:
    if not is_tensor(operand) or rank_of(operand) < -place or not is_tensor(consumer):
        return False
    own, whole = operand.meta["val"].shape, consumer.meta["val"].shape
    narrower = any(
        is_one(a) and not is_one(b) for a, b in zip(own[::-1], whole[::-1], strict=False)
    )
    return narrower and not is_one(own[place])


def _use(node: Node, keeps: bool) -> MaskUse:
    if node.target in FILLING or (node.target in WHERE and not keeps):
        return MaskUse.FILLS
    return MaskUse.SCALES if node.target in SCALING else MaskUse.KEEPS


def _is_computed(operand: Node) -> bool:
    """Does a layer or a product take part in it? Then it is no mask, but a gate or a norm."""
    stack, seen = [operand], {operand}
    while stack:
        node = stack.pop()
        if product_of(node) is not None or node.target == aten.embedding.default:
            return True
        stack += [n for n in node.all_input_nodes if n not in seen]
        seen.update(node.all_input_nodes)
    return False
