"""Which node of a merged graph stands for which node of the dense one."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.fx import GraphModule, Node

from pitome_fx.ops import OPS, is_pitome_op


@dataclass(frozen=True)
class Pair:
    """A node of the dense graph and what stands for it; one of them is None where it is alone."""

    dense: Node | None
    merged: Node | None


def pairs(dense: GraphModule, merged: GraphModule | None) -> list[Pair]:
    """Both graphs, node by node, in an order that fits both; without their inputs.

    Args:
        merged: None where nothing merges: every node stands for itself.
    """
    if merged is None:
        return [Pair(node, node) for node in _nodes(dense)]
    stands_for = _counterparts(dense, merged)
    waiting = _nodes(dense)
    taken: set[Node] = set(stands_for.values())
    found: list[Pair] = []
    for node in _nodes(merged):
        own = stands_for.get(node)
        if own is None:
            found.append(Pair(None, node))
            continue
        for before in waiting:
            if before is own:
                break
            if before not in taken:
                found.append(Pair(before, None))
        found.append(Pair(own, node))
    return found + [Pair(node, None) for node in waiting if node not in taken]


def _nodes(graph: GraphModule) -> Iterator[Node]:
    return (node for node in graph.graph.nodes if node.op != "placeholder")


def _counterparts(dense: GraphModule, merged: GraphModule) -> dict[Node, Node]:
    """Merged node → dense node."""
    by_name = {node.name: node for node in dense.graph.nodes}
    made: dict[Node, list[Node]] = {}
    for node in _nodes(merged):
        sources = node.meta.get("from_node")
        if sources and sources[0].name in by_name:
            made.setdefault(by_name[sources[0].name], []).append(node)
    found = {own: source for source, nodes in made.items() if (own := _own(source, nodes))}
    for node in _nodes(merged):
        # One of several results is recorded as made with them.
        several = node.args[0] if node.target is operator.getitem else None
        if isinstance(several, Node) and several in found:
            results = (user for user in found[several].users if user.target is operator.getitem)
            alike = next((user for user in results if user.args[1] == node.args[1]), None)
            if alike is not None:
                found[node] = alike
    constants = {id(_constant(dense, n)): n for n in dense.graph.find_nodes(op="get_attr")}
    for node in merged.graph.find_nodes(op="get_attr"):
        constant = constants.pop(id(_constant(merged, node)), None)
        if constant is not None:
            found[node] = constant
    (before,), (after,) = (graph.graph.find_nodes(op="output") for graph in (dense, merged))
    return {**found, after: before}


def _constant(graph: GraphModule, node: Node) -> Any:
    """What a ``get_attr`` node holds."""
    return operator.attrgetter(str(node.target))(graph)


def _own(source: Node, nodes: list[Node]) -> Node | None:
    """Of all that was made for a dense node, that which does its work.

    What its operands need comes before it, and what a merge of its result needs after it: reshapes,
    which it may be one of itself.
    """
    merges = any(node.target == OPS["match"].overload for node in nodes)
    alike = [node for node in nodes if node.target == source.target]
    if not alike and not merges and not is_pitome_op(nodes[-1].target):
        # A rule may take another op in its place, as a reshape for a view.
        return nodes[-1]
    return alike[0 if merges else -1] if alike else None
