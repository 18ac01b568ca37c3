"""Atoms: the smallest parts that a graph may be cut into.

Each begins with an op that ends the kernel before it (a product, a convolution, a match), so that a
cut undoes no fusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
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


def cannot_cut(graph: GraphModule, inputs: Sequence[Any]) -> str | None:
    """Why the graph must stay whole, None if it may be cut.

    Args:
        inputs: what its placeholders stand for.
    """
    placeholders = graph.graph.find_nodes(op="placeholder")
    values = [node.meta.get("val") for node in placeholders]
    if any(isinstance(x, torch.SymInt | torch.SymFloat | torch.SymBool) for x in values):
        return "its sizes are symbolic"
    computing = in_order(graph)
    if any(_is_symbolic(node.meta.get("val")) for node in computing):
        return "its sizes depend on data"
    if any(torch.utils._python_dispatch.is_traceable_wrapper_subclass(x) for x in inputs):
        return "it runs on a tensor subclass"
    constants = [attribute(graph, str(node.target)) for node in graph.graph.find_nodes(op="get_attr")]
    if any(not isinstance(x, Tensor) for x in constants) or any(
        node.op != "call_function" for node in computing
    ):
        return "it calls a graph of its own"
    if _writes_to_views(graph, placeholders):
        return "it writes to a tensor of which it has several views"
    return None


def _is_symbolic(value: Any) -> bool:
    if isinstance(value, Tensor):
        return any(not isinstance(n, int) for n in value.shape)
    if isinstance(value, tuple | list):
        return any(_is_symbolic(x) for x in value)
    return isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool)


def _writes_to_views(graph: GraphModule, placeholders: Sequence[Node]) -> bool:
    """Is a tensor written that another value, or another input, shares memory with?

    A region is told of its inputs only, not of what they share.
    """
    written = {
        _memory(operand)
        for node in graph.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
        for operand in _written(node)
    }
    if not written:
        return False
    if None in written:
        return True
    sharing: dict[Any, int] = {}
    for node in graph.graph.nodes:
        memory = _memory(node)
        if memory in written and not _is_write(node):
            sharing[memory] = sharing.get(memory, 0) + 1
    inputs = {_memory(node) for node in placeholders}
    return any(count > 1 for count in sharing.values()) or not written <= inputs


def _is_write(node: Node) -> bool:
    """Its result is what it has written."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _written(node: Node) -> list[Node]:
    """Operands that an op writes to."""
    schema = node.target._schema  # type: ignore[union-attr]
    named = [a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write]
    order = [a.name for a in schema.arguments]
    given = {**dict(zip(order, node.args, strict=False)), **node.kwargs}
    values = [given.get(name) for name in named]
    flat = [x for v in values for x in (v if isinstance(v, tuple | list) else [v])]
    return [x for x in flat if isinstance(x, Node)]


def _memory(node: Node) -> Any:
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return None
    return value.untyped_storage()._cdata


def attribute(graph: GraphModule, path: str) -> Any:
    """What a ``get_attr`` node reads."""
    value: Any = graph
    for name in path.split("."):
        value = getattr(value, name)
    return value
