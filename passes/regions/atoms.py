"""Atoms: the smallest parts that a graph may be cut into.

Each begins with an op that ends the kernel before it (a product, a convolution, a match), so that a
cut undoes no fusion.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from pitome_fx.passes.plan.flops import COUNTED

SWITCHES: dict[Any, int] = {
    torch.amp.autocast_mode._enter_autocast: 1,
    torch.amp.autocast_mode._exit_autocast: -1,
}


def atoms(graph: GraphModule) -> list[list[Node]]:
    """The computing nodes of a graph, in its order, in parts.

    What is inside a change of the autocast or gradient mode stays in one part, and so does what
    takes one of several results with the op that yields them.
    """
    parts: list[list[Node]] = []
    inside = 0
    was_enabled: bool | None = None
    for node in in_order(graph):
        may_cut = inside == 0 and was_enabled is None
        if not parts or (may_cut and node.target in COUNTED):
            parts.append([])
        parts[-1].append(node)
        inside += SWITCHES.get(node.target, 0)
        if node.target is torch._C._set_grad_enabled:
            enabled = bool(node.args[0])
            was_enabled = _inside_after(enabled, was_enabled)
    return parts


def _inside_after(enabled: bool, was_enabled: bool | None) -> bool | None:
    """The mode to be restored, None outside: a switch to what it was before ends the change."""
    if was_enabled is None:
        ambient = torch.is_grad_enabled()
        return None if enabled == ambient else ambient
    return None if enabled == was_enabled else was_enabled


def in_order(graph: GraphModule) -> list[Node]:
    """Computing nodes; one of several results follows at once what yields them."""
    found: list[Node] = []
    for node in graph.graph.nodes:
        if node.op in ("placeholder", "output", "get_attr") or _is_result_of_several(node):
            continue
        found.append(node)
        found += _results(node)
    return found


def _results(node: Node) -> list[Node]:
    """Those taken out of a node, and out of these."""
    own = [user for user in node.users if _is_result_of_several(user)]
    return [result for user in own for result in (user, *_results(user))]


def _is_result_of_several(node: Node) -> bool:
    source = node.args[0] if node.args else None
    return (
        getattr(node.target, "__name__", "") == "getitem"
        and isinstance(source, Node)
        and isinstance(source.meta.get("val"), tuple | list)
    )
