"""Which graphs stay whole: those of which a region would know too little."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.fx import GraphModule, Node

from pitome_fx.passes.capture.functional import is_write, storage_of, written_operands
from pitome_fx.passes.capture.subclasses import is_wrapper
from pitome_fx.passes.regions.atoms import in_order


def why_whole(graph: GraphModule, inputs: Sequence[Any]) -> str | None:
    """Why the graph must stay whole, None if it may be cut.

    Args:
        inputs: what its placeholders stand for.
    """
    computing = in_order(graph)
    values = pytree.tree_leaves([node.meta.get("val") for node in graph.graph.nodes])
    if any(_is_symbolic(value) for value in values):
        return "its sizes are symbolic, or depend on data"
    if any(is_wrapper(x) for x in inputs):
        return "it runs on a tensor subclass"
    if not all(_is_plain(value) for value in values):
        return "it computes with complex or sparse tensors"
    if not all(isinstance(x, Tensor | int | float) for x in inputs):
        return "it takes something else than tensors and numbers"
    constants = (attrgetter(str(n.target))(graph) for n in graph.graph.find_nodes(op="get_attr"))
    modules = any(node.op != "call_function" for node in computing)
    if modules or not all(isinstance(x, Tensor) for x in constants):
        return "it calls a graph of its own"
    if _writes_what_is_shared(graph):
        return "it writes to a tensor of which it has several views"
    return None


def _is_symbolic(value: Any) -> bool:
    sizes = value.shape if isinstance(value, Tensor) else (value,)
    return any(isinstance(n, torch.SymInt | torch.SymFloat | torch.SymBool) for n in sizes)


def _is_plain(value: Any) -> bool:
    if not isinstance(value, Tensor):
        return True
    return value.layout is torch.strided and not value.is_complex()


def _writes_what_is_shared(graph: GraphModule) -> bool:
    """Is memory written that is no input's, or that several values share?

    A region is told of its inputs only, not of what they share.
    """
    writing = {node for node in graph.graph.nodes if is_write(node)}
    written = {_memory(operand) for node in writing for operand in written_operands(node)}
    owners = Counter(_memory(node) for node in graph.graph.nodes if node not in writing)
    inputs = {_memory(node) for node in graph.graph.find_nodes(op="placeholder")}
    return any(owners[memory] > 1 or memory not in inputs for memory in written)


def _memory(node: Node) -> Any:
    """Where its value lies; the node itself where that is not known."""
    storage = storage_of(node)
    return node if storage is None else storage
