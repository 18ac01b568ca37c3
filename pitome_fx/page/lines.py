"""A node as a line of text: ``name = op(args)``, its shape, and what it is there for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pitome_fx.ops import is_pitome_op
from pitome_fx.page.pairing import Pair
from pitome_fx.passes.failures import module_path

LONGEST = 200
"""Characters of a line; what has more arguments is cut off."""

KINDS = {
    "match": "decides which tokens merge",
    "merge": "merges them",
    "size": "sizes of the groups, and their log in attention",
    "along": "merges a dense tensor along",
    "unmerge": "gives every token its group's value",
    "added": "whatever else merging needs",
}
"""What a node that merging added is there for."""

KIND_OF = {
    "match": "match",
    "weigh": "match",
    "importance": "match",
    "merge": "merge",
    "combine": "merge",
    "merge_size": "size",
    "assignment": "unmerge",
    "unmerge": "unmerge",
    "pick": "along",
    "project": "along",
    "group_logsumexp": "along",
}


@dataclass(frozen=True)
class Line:
    """A node as text.

    Attributes:
        text: ``name = op(args)``.
        shape: of its result, '' where it has none.
    """

    text: str
    shape: str


class Names:
    """What the nodes of two graphs are called, so that what stands for each other is called alike.

    Args:
        rows: the nodes of both.
        parameters: placeholders of either graph that hold a parameter, with its path.
    """

    def __init__(self, rows: Iterable[Pair], parameters: Mapping[Node, str]) -> None:
        self.parameters = parameters
        self._names: dict[Node, str] = {}
        rows = list(rows)
        taken = {row.dense.name for row in rows if row.dense is not None}
        for row in rows:
            if row.merged is None:
                continue
            name = row.merged.name if row.dense is None else row.dense.name
            while row.dense is None and name in taken:
                name += "′"
            self._names[row.merged] = name
            taken.add(name)

    def of(self, node: Node, module: str) -> str:
        """A node's name, as a module calls it; parameters are named from there."""
        if node in self.parameters:
            return self.parameters[node].removeprefix(f"{module}." if module else "")
        return self._names.get(node, node.name)

    def line(self, node: Node) -> Line:
        """A node that computes something, or the output."""
        module = module_path(node)
        args = list(node.args)
        while args and args[-1] is None:
            args.pop()
        given = [self._written(value, module) for value in args]
        given += [f"{key}={self._written(value, module)}" for key, value in node.kwargs.items()]
        if node.op == "output":
            return Line(_cut(f"return {', '.join(given)}"), "")
        called = "constant" if node.op == "get_attr" else f"{_op(node)}({', '.join(given)})"
        return Line(_cut(f"{self.of(node, module)} = {called}"), shape_of(node.meta.get("val")))

    def _written(self, value: Any, module: str) -> str:
        """An argument."""
        if isinstance(value, Node):
            return self.of(value, module)
        if isinstance(value, list | tuple):
            inside = ", ".join(self._written(item, module) for item in value)
            return f"[{inside}]" if isinstance(value, list) else f"({inside})"
        if isinstance(value, slice):
            ends = (value.start, value.stop, value.step)
            return ":".join("" if end is None else self._written(end, module) for end in ends)
        return str(value) if isinstance(value, torch.dtype | torch.device) else repr(value)


def _op(node: Node) -> str:
    """An op as README writes it: those of ATen by their name alone."""
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        name = target._schema.name.replace("::", ".")
        return name.removeprefix("aten.")
    return target if isinstance(target, str) else getattr(target, "__name__", repr(target))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def shape_of(value: Any) -> str:
    """The shape of a result; that of the first of several, and how many there are."""
    if isinstance(value, Tensor):
        return f"[{','.join(map(str, value.shape))}]"
    if isinstance(value, list | tuple):
        return f"{len(value)} × {shape_of(value[0])}" if value else ""
    return ""


def kinds(rows: Iterable[Pair]) -> dict[Node, str]:
    """What each node is there for that merging added; a key of ``KINDS``."""
    found: dict[Node, str] = {}
    for row in rows:
        if row.dense is None and row.merged is not None:
            found[row.merged] = _kind(row.merged, found)
    return found


def _kind(node: Node, before: Mapping[Node, str]) -> str:
    target: Any = node.target
    if is_pitome_op(target):
        return KIND_OF[target._schema.name.removeprefix("pitome::")]
    sources = {before.get(source) for source in node.all_input_nodes}
    return "size" if "size" in sources else "added"


def inputs(graph: GraphModule, constants: Collection[Node]) -> list[str]:
    """What the graph is called on: name, shape and dtype of each tensor."""
    return [
        f"{node.name} {shape_of(value)} {str(value.dtype).removeprefix('torch.')}"
        for node in graph.graph.find_nodes(op="placeholder")
        if node not in constants and isinstance(value := node.meta.get("val"), Tensor)
    ]
