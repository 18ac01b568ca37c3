"""Where a graph attends: SDPA nodes, and whatever pairs queries with keys to weigh values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch.fx import Node

from pitome_fx.passes.axes import Dim
from pitome_fx.passes.linear import Linear, linear_attention, masks_of_tokens
from pitome_fx.passes.masks import Mask, MaskKind
from pitome_fx.passes.meetings import masks_of
from pitome_fx.passes.products import Factor, arguments, product_of
from pitome_fx.passes.replay import Replay
from pitome_fx.passes.rule import rule_for
from pitome_fx.passes.rules.pointwise import pointwise
from pitome_fx.passes.scores import SDPA, Follower, Weighing

aten = torch.ops.aten


@dataclass(frozen=True)
class Site:
    """One attention site.

    Attributes:
        number: position among the graph's attention sites.
        node: the SDPA node, the (last) softmax over keys, or else the product with the values.
        keys: the node of the keys, with the places of their token and feature dimension.
        query_dim, key_dim: the dimensions that attend and are attended to.
        masks: everything that scores, or weights, meet on the way.
        is_causal: the op's own causal flag.
        softmaxes: the nodes that weigh keys, where nothing else does.
        oddity: why it cannot be understood, '' if it can.
    """

    number: int
    node: Node
    query: Node
    keys: Node
    token_place: int
    feature_place: int
    query_dim: Dim
    key_dim: Dim
    masks: tuple[Mask, ...] = ()
    is_causal: bool = False
    softmaxes: tuple[Node, ...] = ()
    oddity: str = ""

    @property
    def module(self) -> str:
        """Path of the module that attends."""
        return module_path(self.node)


def module_path(node: Node) -> str:
    """Where in the user's model a node comes from, '' if that is not known."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] if isinstance(entry, tuple) else str(entry) for entry in stack.values()]
    # Dynamo names modules from the local variable that holds the model: L['self'].blocks.0
    return re.sub(r"^(L\['\w+'\]|self)\.?", "", paths[-1]) if paths else ""


def find_sites(replay: Replay) -> list[Site]:
    """All attention sites of a labelled graph, in its order."""
    order = {node: i for i, node in enumerate(replay.graph.graph.nodes)}
    fused = [_sdpa_site(node, replay) for node in order if node.target == SDPA]
    found = [*fused, *Finder(replay, order).sites()]
    return [
        replace(_with_own_keys(site, replay), number=number)
        for number, site in enumerate(sorted(found, key=lambda site: order[site.node]))
    ]


def _sdpa_site(node: Node, replay: Replay) -> Site:
    named = arguments(node)
    mask = named.get("attn_mask")
    q, k = named["query"], named["key"]
    rank = len(replay.labels.dims[k])
    return Site(
        number=0,
        node=node,
        query=q,
        keys=k,
        token_place=rank - 2,
        feature_place=rank - 1,
        query_dim=replay.labels.dims[q][-2],
        key_dim=replay.labels.dims[k][-2],
        masks=() if mask is None else (Mask(mask, node, adds=True),),
        is_causal=bool(named.get("is_causal", False)),
        softmaxes=(node,),
    )


class Finder:
    """Makes sites of what the follower of scores found."""

    def __init__(self, replay: Replay, order: dict[Node, int]) -> None:
        self.replay = replay
        self.dims = replay.labels.dims
        self.order = order
        self.follower = Follower(replay)

    def sites(self) -> list[Site]:
        """One for every product of queries and keys, and one for every softmax of other scores."""
        known: dict[Node, Site] = {}
        taken: set[Node] = set()
        for found in self.follower.weighings:
            linear = linear_attention(found, self.replay.labels)
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
        return [*known.values(), *self._unknown_sites(taken)]

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
        masks, unread = masks_of(found, queries, self.follower.marks, self.replay.masks)
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
                dims = self.dims[node]
                place = arguments(node)["dim"] % len(dims)
                learned = self._is_of_learned_queries(node, dims[place])
                yield Site(
                    number=0,
                    node=node,
                    query=node,
                    keys=node,
                    token_place=place,
                    feature_place=len(dims) - 1,
                    query_dim=(),
                    key_dim=dims[place],
                    softmaxes=(node,) if learned else (),
                    oddity="" if learned else UNKNOWN,
                )

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


UNKNOWN = (
    "unknown attention: the scores that weigh its values are no product of queries and keys; only "
    "such a product says which tokens are alike"
)
SEVERAL = (
    "unknown attention: its scores are those of several products, whose queries or keys are not "
    "known to be the same"
)


def _oddity(found: Weighing) -> str:
    """What on the way of the scores is not understood, '' if all is."""
    for node in found.weights.oddities:
        where = f"{node.target} in {module_path(node) or 'the graph'}"
        if node.target in (aten.tril.default, aten.triu.default):
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


def _with_own_keys(site: Site, replay: Replay) -> Site:
    """The site of tokens that attend to themselves and to learned keys, by their own keys alone."""
    if site.oddity or len(site.key_dim) != 1 or site.key_dim == site.query_dim:
        return site
    joined = site.key_dim[0].axis
    own = tuple(atom.axis for atom in site.query_dim)
    if [part for part, _ in joined.parts].count(own) != 1:
        return site
    source = _part_of_join(site, replay)
    if source is None:
        return site
    dims = replay.labels.dims[source]
    feature = replay.labels.dims[site.keys][site.feature_place]
    oddity = ""
    if any(replay.masks.kind_of(mask) not in HARMLESS for mask in site.masks):
        oddity = (
            "unknown attention mask: it hides keys, learned ones among them, that were joined to "
            "those of the tokens"
        )
    return replace(
        site,
        keys=source,
        token_place=dims.index(site.query_dim),
        feature_place=dims.index(feature),
        key_dim=site.query_dim,
        oddity=oddity,
    )


HARMLESS = (MaskKind.NONE, MaskKind.BIAS)


def _part_of_join(site: Site, replay: Replay) -> Node | None:
    """The tokens' own keys, before learned keys were put beside them."""
    stack, seen = [site.keys], {site.keys}
    while stack:
        node = stack.pop()
        dims = replay.labels.dims.get(node)
        if not isinstance(dims, tuple) or site.key_dim not in dims:
            continue
        if node.target in (aten.cat.default, aten.pad.default, aten.constant_pad_nd.default):
            sources = node.all_input_nodes
            own = [n for n in sources if site.query_dim in replay.labels.dims[n]]
            others = [n for n in sources if n not in own]
            learned = all(n in replay.constant for n in others)
            return own[0] if len(own) == 1 and learned else None
        onward = [n for n in node.all_input_nodes if n not in seen]
        seen.update(onward)
        stack += onward
    return None
