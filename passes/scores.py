"""Between a softmax and the product of queries and keys behind it: what scores go through."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from pitome_fx.passes.dataflow import is_one
from pitome_fx.passes.masks import FUSING, Mask, MaskUse
from pitome_fx.passes.operands import SAME_VALUES, value_operands

aten = torch.ops.aten

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
    *SAME_VALUES,
    *FUSING,
    aten.expand.default,
    aten.tanh.default,
)


SCALING = (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.tanh.default)
REARRANGING = (aten.permute.default, aten.transpose.int, aten.linear.default)


def arguments(node: Node) -> dict[str, Any]:
    """Arguments of an ATen node by the names of its schema."""
    target: Any = node.target
    names = [argument.name for argument in target._schema.arguments]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def product_behind(scores: Node) -> tuple[Node | None, list[Mask]]:
    """The product that scores were computed from, and what was added or filled in between."""
    masks: list[Mask] = []
    node, translated = scores, True
    for _ in range(32):
        if node.target in PRODUCTS:
            added = arguments(node)
            beta = added.get("beta", 1)
            if node.target == aten.baddbmm.default and beta != 0:
                masks.append(Mask(added["self"], node, adds=translated and beta == 1))
            return node, masks
        if node.target in REARRANGING:
            assert isinstance(node.args[0], Node)
            node, translated = node.args[0], translated and node.target != aten.linear.default
            continue
        if node.target not in BETWEEN:
            return None, []
        sources = value_operands(node)
        onward = [source for source in sources if leads_to_product(source)]
        if len(onward) != 1:
            return None, []
        use = MaskUse.FILLS if _fills(node, onward[0]) else MaskUse.KEEPS
        translated = translated and _translates(node, onward[0])
        # Of a where, the condition is the mask.
        others = sources[:1] if node.target in WHERE else sources
        masks += [
            Mask(source, node, use, adds=translated and node.target == aten.add.Tensor)
            for source in others
            if source is not onward[0] and _rank(source) >= 2 and not _is_per_query(source)
        ]
        node = onward[0]
    return None, []


def _is_per_query(operand: Node) -> bool:
    """Has it one value for all keys (a row's maximum, say), so that it hides none?"""
    return is_one(operand.meta["val"].shape[-1])


def _translates(node: Node, scores: Node) -> bool:
    """Does the op leave differences between scores as they are?"""
    if node.target in (aten.add.Tensor, aten.sub.Tensor):
        first = node.args[0] is scores or node.target == aten.add.Tensor
        return first and bool(node.kwargs.get("alpha", 1) == 1)
    return node.target not in SCALING


def factors(product: Node) -> list[Node]:
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


def factors_after(softmax: Node) -> list[Mask]:
    """What the attention weights are multiplied with on the way to the values."""
    masks: list[Mask] = []
    node = softmax
    for _ in range(8):
        onward = [
            user for user in node.users if user.target in BETWEEN and node in value_operands(user)
        ]
        if len(onward) != 1:
            break
        for other in value_operands(onward[0]):
            if other is not node and _rank(other) >= 2 and not _is_per_query(other):
                fills = _fills(onward[0], node)
                masks.append(Mask(other, onward[0], MaskUse.FILLS if fills else MaskUse.SCALES))
        node = onward[0]
    return masks


def leads_to_product(node: Node) -> bool:
    """Are these scores: a product of two tensors, and what is added or filled into it?"""
    for _ in range(32):
        if node.target in PRODUCTS:
            return True
        if node.target in REARRANGING:
            assert isinstance(node.args[0], Node)
            node = node.args[0]
            continue
        if node.target not in BETWEEN:
            return False
        sources = [source for source in value_operands(node) if _rank(source) >= 2]
        if len(sources) > 1:
            return any(leads_to_product(source) for source in sources)
        if not sources:
            return False
        node = sources[0]
    return False


def _rank(node: Node) -> int:
    value = node.meta.get("val")
    return value.dim() if isinstance(value, torch.Tensor) else 0


def weighs_values(softmax: Node) -> bool:
    """Is the softmax multiplied into something, as attention weights are?"""
    stack, seen = [softmax], {softmax}
    while stack:
        weights = stack.pop()
        for user in weights.users:
            if weights not in value_operands(user):
                continue
            if user.target in PRODUCTS:
                return True
            if user not in seen and (user.target in BETWEEN or user.target in REARRANGING):
                seen.add(user)
                stack.append(user)
    return False
