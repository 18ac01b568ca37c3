"""The residual stream: where it passes an attention, and where it fans out afterwards."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.fx import Node

from pitome_fx.passes.axes import Dim
from pitome_fx.passes.replay import Labels
from pitome_fx.passes.sites import Site

aten = torch.ops.aten

RESIDUAL_ADDS = (aten.add.Tensor, aten.add_.Tensor)
PER_TOKEN = (
    *RESIDUAL_ADDS,
    aten.mul.Tensor,
    aten.layer_norm.default,
    aten.rms_norm.default,
    aten.dropout.default,
    aten.to.dtype,
    aten.contiguous.default,
    aten.clone.default,
    aten.alias.default,
    aten.type_as.default,
)


class Refusal(Exception):
    """Why a site cannot merge."""


def reachable(roots: Iterable[Node], order: dict[Node, int], *, forward: bool) -> set[Node]:
    """The nodes of the graph downstream (or upstream) of the roots, and these."""
    seen: set[Node] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node not in seen and node in order:
            seen.add(node)
            stack += list(node.users) if forward else node.all_input_nodes
    return seen


def merge_point(
    site: Site,
    tokens: Dim,
    labels: Labels,
    after: set[Node],
    before: set[Node],
    order: dict[Node, int],
) -> Node:
    """The fan-out of the residual stream after the attention's residual add."""
    for node in sorted(after, key=order.__getitem__):
        if node.target not in RESIDUAL_ADDS:
            continue
        inner = [n for n in node.all_input_nodes if n in after]
        outer = [n for n in node.all_input_nodes if n not in after and _stems_from(n, before)]
        if inner and outer and all(_count(labels, n, tokens) == 1 for n in (node, outer[0])):
            return _fan_out(node, tokens, labels)
    if _is_split(tokens):
        raise Refusal(
            "windowed, grid or channel attention: what attends is a part of another dimension, "
            "regrouped, and not the tokens of the residual stream"
        )
    raise Refusal(
        "no residual connection carries these tokens past the attention (attention pooling, "
        "channel attention, or a regrouped token axis), so there is no place to merge"
    )


def _stems_from(node: Node, stream: set[Node]) -> bool:
    """Is it a node of the stream, or one of these scaled or normalised?"""
    stack = [node]
    while stack:
        current = stack.pop()
        if current in stream:
            return True
        if current.target in PER_TOKEN:
            stack += current.all_input_nodes
    return False


def _count(labels: Labels, node: Node, tokens: Dim) -> int:
    dims = labels.dims.get(node)
    return dims.count(tokens) if isinstance(dims, tuple) else 0


def _is_split(tokens: Dim) -> bool:
    return any(atom.axis.whole is not None for atom in tokens)


def _fan_out(node: Node, tokens: Dim, labels: Labels) -> Node:
    """Follow the stream while it has one per-token user: past post-norms and outer sums."""
    while True:
        users = [user for user in node.users if user.op != "output"]
        if len(node.users) != 1 or not users or users[0].target not in PER_TOKEN:
            return node
        if _count(labels, users[0], tokens) != 1:
            return node
        node = users[0]
