"""Where a graph attends: SDPA nodes, and softmaxes over products of two token tensors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from pitome_fx.passes.axes import Dim
from pitome_fx.passes.masks import Mask, MaskUse
from pitome_fx.passes.replay import Labels

aten = torch.ops.aten

SDPA = aten.scaled_dot_product_attention.default
SOFTMAX = (aten.softmax.int, aten._softmax.default)
PRODUCTS = (
    aten.matmul.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.einsum.default,
)
WHERE = (aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther)
BETWEEN = (
    *WHERE,
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.mul.Scalar,
    aten.div.Tensor,
    aten.masked_fill.Scalar,
    aten.masked_fill.Tensor,
    aten.dropout.default,
    aten.to.dtype,
    aten.view.default,
    aten.reshape.default,
    aten.contiguous.default,
    aten.clone.default,
    aten.expand.default,
    aten.type_as.default,
    aten.tanh.default,
)


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


def arguments(node: Node) -> dict[str, Any]:
    """Arguments of an ATen node by the names of its schema."""
    target: Any = node.target
    names = [argument.name for argument in target._schema.arguments]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def find_sites(graph: GraphModule, labels: Labels) -> list[Site]:
    """All attention sites in graph order."""
    sites: list[Site] = []
    for node in graph.graph.nodes:
        if node.target == SDPA:
            sites.append(_sdpa_site(len(sites), node, labels))
        elif node.target in SOFTMAX:
            site = _softmax_site(len(sites), node, labels)
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
        masks=() if mask is None else (Mask(mask, node),),
        is_causal=bool(named.get("is_causal", False)),
    )


def _softmax_site(number: int, node: Node, labels: Labels) -> Site | None:
    scores = node.args[0]
    dim: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    dims = labels.dims[node]
    if not isinstance(scores, Node) or dim % len(dims) != len(dims) - 1 or len(dims) < 3:
        return None
    product, masks = _product_behind(scores)
    if product is None:
        return None
    masks += _factors_after(node)
    operands = _factors(product)
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


def _product_behind(scores: Node) -> tuple[Node | None, list[Mask]]:
    """The product that scores were computed from, and what was added or filled in between."""
    masks: list[Mask] = []
    node = scores
    for _ in range(32):
        if node.target in PRODUCTS:
            added = arguments(node)
            if node.target == aten.baddbmm.default and added.get("beta", 1) != 0:
                masks.append(Mask(added["self"], node))
            return node, masks
        if node.target not in BETWEEN:
            return None, []
        sources = node.all_input_nodes
        onward = [source for source in sources if _leads_to_product(source)]
        if len(onward) != 1:
            return None, []
        use = MaskUse.FILLS if _fills(node, onward[0]) else MaskUse.KEEPS
        # Of a where, the condition is the mask.
        others = sources[:1] if node.target in WHERE else sources
        masks += [
            Mask(source, node, use)
            for source in others
            if source is not onward[0] and _rank(source) >= 2
        ]
        node = onward[0]
    return None, []


def _factors(product: Node) -> list[Node]:
    """The two tensors that a product multiplies."""
    given = arguments(product)
    if product.target == aten.einsum.default:
        return list(given["tensors"])
    names = ("batch1", "batch2") if "batch1" in given else ("self", "other", "mat2")
    return [given[name] for name in names if name in given]


def _fills(node: Node, scores: Node) -> bool:
    """Does the node replace scores where its condition is True?"""
    if node.target in WHERE:
        return node.args[2] is scores
    return node.target in (aten.masked_fill.Scalar, aten.masked_fill.Tensor)


def _factors_after(softmax: Node) -> list[Mask]:
    """What the attention weights are multiplied with on the way to the values."""
    masks: list[Mask] = []
    node = softmax
    for _ in range(8):
        onward = [user for user in node.users if user.target in BETWEEN]
        if len(onward) != 1:
            break
        for other in onward[0].all_input_nodes:
            if other is not node and _rank(other) >= 2:
                fills = _fills(onward[0], node)
                masks.append(Mask(other, onward[0], MaskUse.FILLS if fills else MaskUse.SCALES))
        node = onward[0]
    return masks


def _leads_to_product(node: Node) -> bool:
    for _ in range(32):
        if node.target in PRODUCTS:
            return True
        if node.target not in BETWEEN:
            return False
        sources = [source for source in node.all_input_nodes if _rank(source) >= 2]
        if len(sources) > 1:
            return any(_leads_to_product(source) for source in sources)
        if not sources:
            return False
        node = sources[0]
    return False


def _rank(node: Node) -> int:
    value = node.meta.get("val")
    return value.dim() if isinstance(value, torch.Tensor) else 0
