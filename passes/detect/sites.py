"""An attention site: where queries meet keys, and which dimensions attend to which."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.fx import Node

from pitome_fx.passes.detect.mask import Mask, MaskKind
from pitome_fx.passes.detect.masks import Masks
from pitome_fx.passes.detect.products import arguments
from pitome_fx.passes.failures import module_path
from pitome_fx.passes.replay.interpreter import Replay
from pitome_fx.passes.tokens.dims import Dim

aten = torch.ops.aten


@dataclass(frozen=True)
class Site:
    """One attention site.

    Attributes:
        number: position among the graph's attention sites.
        node: the SDPA node, the (last) softmax over keys, or else the product with the values.
        keys: the node of the keys, with the places of their token and feature dimension.
        query_places: places of the queries' token and feature dimension, None if unknown.
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
    query_places: tuple[int, int] | None = None

    @property
    def module(self) -> str:
        """Path of the module that attends."""
        return module_path(self.node)


def sdpa_site(node: Node, replay: Replay) -> Site:
    """The site of a fused attention."""
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
        query_places=(len(replay.labels.dims[q]) - 2, len(replay.labels.dims[q]) - 1),
    )


def with_own_keys(site: Site, replay: Replay, masks: Masks) -> Site:
    """The site of tokens that attend to themselves and to learned keys, by their own keys alone."""
    if site.oddity or len(site.key_dim) != 1 or site.key_dim == site.query_dim:
        return site
    joined = site.key_dim[0].axis
    own = tuple(atom.axis for atom in site.query_dim)
    # A single query, as in pooling, has no axis, and neither has a single token joined to others.
    if not own or [part.axes for part in joined.parts].count(own) != 1:
        return site
    source = _part_of_join(site, replay)
    if source is None:
        return site
    dims = replay.labels.dims[source]
    feature = replay.labels.dims[site.keys][site.feature_place]
    oddity = ""
    if any(masks.kind_of(mask) not in HARMLESS for mask in site.masks):
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
