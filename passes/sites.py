"""Where a graph attends: SDPA nodes, and softmaxes over products of two token tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from pitome_fx.passes.axes import Dim
from pitome_fx.passes.failures import module_path
from pitome_fx.passes.masks import Mask
from pitome_fx.passes.replay import Labels
from pitome_fx.passes.scores import (
    arguments,
    factors,
    factors_after,
    product_behind,
    weighs_values,
)

aten = torch.ops.aten

SDPA = aten.scaled_dot_product_attention.default
SOFTMAX = (aten.softmax.int, aten._softmax.default)


@dataclass(frozen=True)
class Site:
    """One attention site.

    Attributes:
        number: position among the graph's attention sites.
        node: the SDPA or softmax node.
        keys: the node of the keys, with the places of their token and feature dimension.
        query_dim, key_dim: the dimensions that attend and are attended to.
        masks: everything added to (or filled into) the scores.
        is_causal: the op's own causal flag.
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
    masks: tuple[Mask, ...]
    is_causal: bool
    oddity: str = ""

    @property
    def module(self) -> str:
        """Path of the module that attends."""
        return module_path(self.node)


def find_sites(graph: GraphModule, labels: Labels) -> list[Site]:
    """All attention sites in graph order."""
    sites: list[Site] = []
    for node in graph.graph.nodes:
        if node.target == SDPA:
            sites.append(_sdpa_site(len(sites), node, labels))
        elif node.target in SOFTMAX:
            site = _softmax_site(len(sites), node, labels)
            if site is None and weighs_values(node):
                site = _odd_site(len(sites), node, labels)
            if site is not None:
                sites.append(site)
    return sites


def _sdpa_site(number: int, node: Node, labels: Labels) -> Site:
    named = arguments(node)
    mask = named.get("attn_mask")
    q, k = named["query"], named["key"]
    return Site(
        number=number,
        node=node,
        query=q,
        keys=k,
        token_place=len(labels.dims[k]) - 2,
        feature_place=len(labels.dims[k]) - 1,
        query_dim=labels.dims[q][-2],
        key_dim=labels.dims[k][-2],
        masks=() if mask is None else (Mask(mask, node, adds=True),),
        is_causal=bool(named.get("is_causal", False)),
    )


def _softmax_site(number: int, node: Node, labels: Labels) -> Site | None:
    scores = node.args[0]
    dim: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    dims = labels.dims[node]
    if not isinstance(scores, Node) or dim % len(dims) != len(dims) - 1 or len(dims) < 3:
        return None
    product, masks = product_behind(scores)
    if product is None or not _lines_up(labels.dims[product], dims, masks):
        return None
    masks += factors_after(node)
    operands = factors(product)
    if len(operands) != 2:
        return None
    query, keys = operands
    # What masks the scores may have renamed their dimensions: ask the product.
    key_dim, query_dim = labels.dims[product][-1], labels.dims[product][-2]
    key_dims = labels.dims[keys]
    if not key_dim or key_dims.count(key_dim) != 1:
        return None
    inner = [d for d in key_dims if d and d in labels.dims[query] and d not in dims]
    token = key_dims.index(key_dim)
    if product.target != aten.einsum.default:
        feature = len(key_dims) - 1 if token == len(key_dims) - 2 else len(key_dims) - 2
    elif inner:
        feature = key_dims.index(inner[-1])
    else:
        feature = len(key_dims) - 1
    return Site(
        number=number,
        node=node,
        query=query,
        keys=keys,
        token_place=token,
        feature_place=feature,
        query_dim=query_dim,
        key_dim=key_dim,
        masks=tuple(masks),
        is_causal=False,
    )


def _lines_up(product: tuple[Dim, ...], weights: tuple[Dim, ...], masks: list[Mask]) -> bool:
    """Are queries and keys where the product had them? (What masks the scores may rename them.)"""
    return bool(masks) or product[-2:] == weights[-2:] or not weights[-1]


def _odd_site(number: int, node: Node, labels: Labels) -> Site | None:
    """A softmax that weighs values, but by no scores of queries and keys."""
    dims = labels.dims[node]
    if len(dims) < 3:
        return None
    return Site(
        number=number,
        node=node,
        query=node,
        keys=node,
        token_place=len(dims) - 2,
        feature_place=len(dims) - 1,
        query_dim=dims[-2],
        key_dim=dims[-1],
        masks=(),
        is_causal=False,
        oddity=(
            "unknown attention: its scores are no product of queries and keys, or more than a "
            "mask meets them on the way to the softmax (linear attention, for one)"
        ),
    )
