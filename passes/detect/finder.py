"""Where a graph attends: SDPA nodes, and whatever pairs queries with keys to weigh values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch.fx import Node

from pitome_fx.passes.aten.families import SDPA, TRIANGLES
from pitome_fx.passes.detect.follow import Follower
from pitome_fx.passes.detect.linear import Linear, linear_attention, made_by_layers, masks_of_tokens
from pitome_fx.passes.detect.masks import Masks
from pitome_fx.passes.detect.meetings import masks_of
from pitome_fx.passes.detect.products import Factor, arguments, product_of
from pitome_fx.passes.detect.scores import Weighing
from pitome_fx.passes.detect.sites import Site, sdpa_site, with_own_keys
from pitome_fx.passes.failures import module_path
from pitome_fx.passes.replay.interpreter import Replay
from pitome_fx.passes.rules.pointwise import pointwise
from pitome_fx.passes.tokens.dims import Dim
from pitome_fx.passes.tokens.rule import rule_for

UNKNOWN = (
    "unknown attention: the scores that weigh its values are no product of queries and keys; only "
    "such a product says which tokens are alike"
)
SEVERAL = (
    "unknown attention: its scores are those of several products, whose queries or keys are not "
    "known to be the same"
)


def find_sites(replay: Replay, masks: Masks) -> list[Site]:
    """All attention sites of a labelled graph, in its order."""
    order = {node: i for i, node in enumerate(replay.graph.graph.nodes)}
    fused = [sdpa_site(node, replay) for node in order if node.target == SDPA]
    found = [*fused, *Finder(replay, masks, order).sites()]
    return [
        replace(with_own_keys(site, replay, masks), number=number)
        for number, site in enumerate(sorted(found, key=lambda site: order[site.node]))
    ]


class Finder:
    """Makes sites of what the follower of scores found."""

    def __init__(self, replay: Replay, masks: Masks, order: dict[Node, int]) -> None:
        self.replay = replay
        self.masks = masks
        self.dims = replay.labels.dims
        self.order = order
        self.follower = Follower(replay)
        self.made = made_by_layers(replay.labels)

    def sites(self) -> list[Site]:
        """One for every product of queries and keys, and one for every softmax of other scores."""
        known: dict[Node, Site] = {}
        taken: set[Node] = set()
        for found in self.follower.weighings:
            linear = linear_attention(found, self.replay.labels, self.made)
            if linear is not None:
                key, site = linear.node, self._linear_site(found, linear)
                taken.add(key)
            elif found.weights.products and not self.follower.is_bilinear(found):
                key = max(found.weights.products, key=self.order.__getitem__)
                site = self._site(found, key)
            else:
                continue
            taken.add(found.node)
            known[key] = _merged(known[key], site) if key in known else site
        by_element = self._by_element(known)
        return [*known.values(), *by_element, *self._unknown_sites(taken)]

    def _by_element(self, known: dict[Node, Site]) -> Iterator[Site]:
        """Softmaxes whose weights meet values element by element, and in no product."""
        for node, weights in self.follower.by_element:
            if weights.normalised and weights.products and not weights.products & known.keys():
                softmax = weights.softmaxes[0]
                where = f"{node.target} in {module_path(node) or 'the graph'}"
                yield self._odd_site(
                    softmax,
                    f"unknown attention: weights and values are multiplied element by element "
                    f"({where}); use matmul or einsum there",
                )

    def _odd_site(self, softmax: Node, oddity: str) -> Site:
        """A site of which no more is known than its softmax; () for queries is cross-attention."""
        dims = self.dims[softmax]
        place = arguments(softmax)["dim"] % len(dims)
        return Site(
            number=0,
            node=softmax,
            query=softmax,
            keys=softmax,
            token_place=place,
            feature_place=len(dims) - 1,
            query_dim=(),
            key_dim=dims[place],
            # Over any other dimension it pools or gates tokens, and is no attention's.
            softmaxes=(softmax,) if not oddity and place == len(dims) - 1 else (),
            oddity=oddity,
        )

    def _site(self, found: Weighing, node: Node) -> Site:
        """The site of scores whose last product is ``node``."""
        product = product_of(node)
        assert product is not None
        labels = {mark[0] for mark in found.keys}
        keys, query = product.right, product.left
        if "left" in labels:
            keys, query = query, keys
        key_at = self._place(keys, [axis for _, axis in found.keys])
        key_dim = self.dims[keys.node][key_at]
        query_at = self._place(query, [atom.axis for atom in key_dim])
        query_dim = self.dims[query.node][query_at]
        side = "right" if "left" in labels else "left"
        queries = frozenset((side, atom.axis) for atom in query_dim)
        masks, unread = masks_of(found, queries, self.follower.marks, self.masks)
        softmaxes = self.follower.softmaxes_over(found.keys, found.weights.softmaxes)
        rank = len(self.dims[keys.node])
        is_single = len(labels) == 1 and {a for _, a in found.keys} == {x.axis for x in key_dim}
        return Site(
            number=0,
            node=softmaxes[0] if softmaxes else found.node,
            query=query.node,
            keys=keys.node,
            token_place=rank + key_at,
            feature_place=rank + keys.inner[-1],
            query_dim=query_dim,
            key_dim=key_dim,
            masks=tuple(masks),
            softmaxes=softmaxes if found.keys <= found.weights.normalised else (),
            oddity=_oddity(found) or unread or ("" if is_single else SEVERAL),
            query_places=_from_the_front(self.dims[query.node], query_at, query.inner[-1]),
        )

    def _place(self, factor: Factor, axes: list[object]) -> int:
        """The factor's own dimension with one of these axes, or else its last."""
        dims = self.dims[factor.node]
        own = [at for at, _ in factor.outer]
        return next((at for at in own if any(a.axis in axes for a in dims[at])), own[-1])

    def _linear_site(self, found: Weighing, linear: Linear) -> Site:
        return Site(
            number=0,
            node=found.node,
            query=linear.query,
            keys=linear.keys,
            token_place=linear.token_place,
            feature_place=linear.feature_place,
            query_dim=linear.tokens,
            key_dim=linear.tokens,
            masks=tuple(masks_of_tokens(linear, self.replay.labels)),
        )

    def _unknown_sites(self, taken: set[Node]) -> Iterator[Site]:
        """Softmaxes that weigh values by scores of no two tensors of tokens."""
        seen: set[Node] = set()
        for found in self.follower.weighings:
            if found.weights.products or found.node in taken:
                continue
            node = found.weights.softmaxes[0]
            if node not in seen:
                seen.add(node)
                keys = self.dims[node][arguments(node)["dim"]]
                learned = self._is_of_learned_queries(node, keys)
                yield self._odd_site(node, "" if learned else UNKNOWN)

    def _is_of_learned_queries(self, softmax: Node, keys: Dim) -> bool:
        """Are its scores a product of keys with one query, or with learned ones?"""
        stack, seen = list(softmax.all_input_nodes), {softmax}
        while stack:
            node = stack.pop()
            dims = self.dims.get(node)
            if node in seen or not isinstance(dims, tuple) or keys not in dims:
                continue
            if product_of(node) is not None:
                return True
            seen.add(node)
            stack += node.all_input_nodes
        return False


def _from_the_front(dims: Sequence[Dim], *places: int) -> tuple[int, int]:
    first, second = (place % len(dims) for place in places)
    return first, second


def _oddity(found: Weighing) -> str:
    """What on the way of the scores is not understood, '' if all is."""
    for node in found.weights.oddities:
        where = f"{node.target} in {module_path(node) or 'the graph'}"
        if node.target in TRIANGLES:
            return f"causal attention: {where} cuts the scores to a triangle"
        if rule_for(node.target) is pointwise:
            return f"{SEVERAL}; they meet in {where}"
        return (
            f"unknown attention: its scores go through {where}, which has no token rule or mixes "
            "keys or queries, so that it cannot be shown which keys a query sees"
        )
    return ""


def _merged(site: Site, other: Site) -> Site:
    """One site whose weights meet two products of values."""
    masks = tuple(dict.fromkeys(site.masks + other.masks))
    both = site.softmaxes if site.softmaxes == other.softmaxes else ()
    return replace(site, masks=masks, softmaxes=both, oddity=site.oddity or other.oddity)
