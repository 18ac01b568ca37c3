"""Which attention biases count only by what a whole group of keys weighs.

Σ exp(bias) over the members of a group is the group's weight, exactly, though its members weigh
unlike each other. That is right where weights are only summed over keys, as on the way to the
values; whoever reads a single weight must see the bias averaged.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from pitome_fx.passes.aten.families import (
    ADDITIONS,
    ALIKE,
    DIVISIONS,
    FILLING,
    LOG_SOFTMAX,
    SCALING,
    SDPA,
    SHAPES,
    SOFTMAX,
    SUBTRACTIONS,
    WHERE,
)
from pitome_fx.passes.aten.nodes import is_one
from pitome_fx.passes.aten.operands import value_operands
from pitome_fx.passes.detect.mask import Mask, MaskKind
from pitome_fx.passes.detect.masks import Masks
from pitome_fx.passes.detect.products import arguments, product_of
from pitome_fx.passes.detect.sites import Site
from pitome_fx.passes.replay.relabel import Relabelling
from pitome_fx.passes.tokens.axes import Axis
from pitome_fx.passes.tokens.dims import Atom, Dim
from pitome_fx.passes.tokens.rule import moves_elements

aten = torch.ops.aten

WEIGHING = (*SOFTMAX, aten.exp.default)
ADDING = (*ADDITIONS, *SUBTRACTIONS)


def exact_biases(sites: Sequence[Site], masks: Masks) -> dict[tuple[Node, Node], frozenset[Node]]:
    """(consumer, bias) → what has a value for each key after it, up to where keys are summed over.

    Those that may be merged by what each group weighs, unless keys are unmerged after all. One for
    each softmax: of two, Σ exp(a + b) is no product of Σ exp(a) and Σ exp(b). The masks of fused
    attention are not among them: it sums over keys itself.
    """
    found: dict[tuple[Node, Node], frozenset[Node]] = {}
    for site in sites:
        if site.node.target == SDPA:
            continue
        adding = [mask for mask in site.masks if mask.adds]
        learned = [m for m in adding if _is_bias(m, masks)]
        for mask in [*learned, *adding][:1]:
            carried = _carried_until_summed(mask.consumer, masks.variation.relabelling)
            if carried is not None:
                found[mask.consumer, mask.node] = carried
    return found


def _is_bias(mask: Mask, masks: Masks) -> bool:
    """Does it weigh keys, and hide none? One value for each key, whatever the query, is learned."""
    return masks.kind_of(mask) is MaskKind.BIAS or masks.is_learned(mask.node)


def _carried_until_summed(addition: Node, relabelling: Relabelling) -> frozenset[Node] | None:
    """What has a value for each key, after a bias was added here.

    None where the weights of the keys are not only ever summed over keys.

    Args:
        addition: the scores with their bias, keys last.
    """
    # What still has a value for each key, and where its keys are, counted from the end.
    per_key: dict[Node, int] = {addition: -1}
    weights: set[Node] = set()
    peaks: set[Node] = set()
    pending = [addition]
    while pending:
        node = pending.pop()
        for user in node.users:
            if node not in value_operands(user) or user.target in SHAPES:
                continue
            weighs = node in weights
            if weighs and _sums(user, node, per_key[node]):
                continue
            if not weighs and _leaves_no_key(user, per_key[node], peaks):
                continue
            follow = _after_softmax if weighs else _before_softmax
            place = follow(user, node, per_key[node], relabelling)
            weighs = weighs or user.target in WEIGHING
            if place is None:
                return None
            if user not in per_key:
                per_key[user] = place
                weights.update([user] if weighs else [])
                pending.append(user)
            elif per_key[user] != place or (user in weights) != weighs:
                # Keys meet queries, or weights meet scores.
                return None
    if peaks and any(node.target == aten.exp.default for node in weights):
        # By hand a row's maximum need not cancel: exp(s − m) / (1 + Σ exp(s − m)).
        return None
    scores = (node for node in per_key if node not in weights and node is not addition)
    is_summed = all(_is_linear(node, per_key) for node in weights) and all(
        sum(source in per_key for source in node.all_input_nodes) == 1 for node in scores
    )
    return frozenset(per_key) if is_summed else None


def _leaves_no_key(user: Node, place: int, peaks: set[Node]) -> bool:
    """Is nothing left of single keys, but log Σ exp over them or a maximum that only shifts?"""
    if user.target == aten.logsumexp.default:
        return _reduces(user, place)
    is_peak = _is_peak(user, place)
    peaks.update([user] if is_peak else [])
    return is_peak


def _before_softmax(user: Node, node: Node, place: int, relabelling: Relabelling) -> int | None:
    """Where the keys are in what is computed from scores, None if they are not just shifted."""
    if user.target in (*SOFTMAX, *LOG_SOFTMAX):
        dim, rank = arguments(user)["dim"], user.meta["val"].dim()
        return place if dim % rank == place % rank else None
    if user.target == aten.exp.default:
        return place
    if user.target in ADDING:
        return place if _shifts(user, node) else None
    return _rearranged(user, node, place, relabelling)


def _shifts(addition: Node, scores: Node) -> bool:
    """Is it these scores, as they are, and something else?"""
    first, second = addition.args[:2]
    if (first is scores) == (second is scores) or addition.kwargs.get("alpha", 1) != 1:
        return False
    return addition.target in ADDITIONS or first is scores


def _after_softmax(user: Node, node: Node, place: int, relabelling: Relabelling) -> int | None:
    """Where the keys are in what is linear in weights, None if it is not."""
    if user.target in ADDING or user.target in SCALING:
        return place
    if user.target == aten.linear.default:
        # Heads are mixed in the last dimension.
        return place if place != -1 and user.args[0] is node else None
    return _rearranged(user, node, place, relabelling)


def _rearranged(user: Node, node: Node, place: int, relabelling: Relabelling) -> int | None:
    """Where the keys are among the same values elsewhere, or of which some are filled."""
    if user.target in ALIKE or user.target in FILLING or _chooses(user, node, place):
        return place
    return _moved(user, node, place, relabelling) if moves_elements(user.target) else None


def _chooses(user: Node, node: Node, place: int) -> bool:
    """Is it these values, or one number for all keys, by a condition?"""
    if user.target not in WHERE or user.args[0] is node:
        return False
    (other,) = [x for x in user.args[1:] if x is not node] or [None]
    if not isinstance(other, Node):
        return other is not None
    shape = other.meta["val"].shape
    return len(shape) < -place or is_one(shape[place])


def _moved(user: Node, node: Node, place: int, relabelling: Relabelling) -> int | None:
    """Where an op puts a dimension, None where it is not all of it or not alone."""
    keys = (Atom(Axis(node.meta["val"].shape[place])),)

    def naming(operand: Node, dims: tuple[Dim, ...]) -> tuple[Dim, ...]:
        own = [tuple(Atom(Axis(atom.axis.size)) for atom in dim) for dim in dims]
        if operand is node:
            own[place] = keys
        return tuple(own)

    dims = relabelling.dims(user, naming) or ()
    return dims.index(keys) - len(dims) if keys in dims else None


def _sums(user: Node, node: Node, place: int) -> bool:
    """Does it sum over the keys, so that nothing is left of single ones?"""
    if user.target in (aten.sum.dim_IntList, aten.mean.dim):
        return _reduces(user, place)
    product = product_of(user)
    if product is None:
        return False
    return [place in f.inner for f in (product.left, product.right) if f.node is node] == [True]


def _reduces(user: Node, place: int) -> bool:
    """Is the dimension at a place (from the end) among those that a reduction runs over?"""
    source = arguments(user)["self"]
    rank, dim = source.meta["val"].dim(), arguments(user).get("dim")
    over = [dim] if isinstance(dim, int) else dim or range(rank)
    return place % rank in [d % rank for d in over]


def _is_peak(user: Node, place: int) -> bool:
    """Is it a row's largest score, which is only subtracted from scores?"""
    if user.target not in (aten.amax.default, aten.max.dim):
        return False
    return _reduces(user, place) and _is_only_subtracted(user)


def _is_only_subtracted(peak: Node) -> bool:
    onward = (aten.detach.default, operator.getitem)
    return all(
        _is_only_subtracted(user)
        if user.target in onward
        else user.target in SUBTRACTIONS and user.args[1] is peak
        for user in peak.users
    )


def _is_linear(node: Node, per_key: dict[Node, int]) -> bool:
    """Is it no product of weights with weights, nor something divided by them?"""
    if node.target not in SCALING:
        return True
    args: Any = node.args
    if node.target in DIVISIONS and args[1] in per_key:
        return False
    return sum(x in per_key for x in args if isinstance(x, Node)) == 1
