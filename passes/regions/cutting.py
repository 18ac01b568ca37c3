"""The stage: a merged graph as regions of few kinds."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import torch
from torch.fx import GraphModule, Node

from pitome_fx.ops import OPS
from pitome_fx.passes.regions.atoms import atoms
from pitome_fx.passes.regions.structure import SAYS_COUNT, Region, region_of
from pitome_fx.passes.regions.whole import why_whole

NODES_OF_MATCH = 60
"""A pitome op is one node, whose body is many."""


@dataclass(frozen=True)
class Cut:
    """A graph in regions.

    Attributes:
        regions: in the order in which they run.
    """

    regions: list[Region]

    @property
    def kinds(self) -> dict[Hashable, list[Region]]:
        """Regions that are alike, by their key."""
        found: dict[Hashable, list[Region]] = {}
        for region in self.regions:
            found.setdefault(region.key, []).append(region)
        return found

    def read_again(self, start: int) -> None:
        """From a region on, what is known of their inputs, which has changed."""
        for i in range(start, len(self.regions)):
            old = self.regions[i]
            self.regions[i] = replace(region_of(old.nodes), outputs=old.outputs)


Join = Callable[[Sequence[int], Sequence[int]], Sequence[tuple[int, int]]]
"""From kinds of atoms and the costs of compiling each to regions, as ranges of atoms."""


def cut(graph: GraphModule, inputs: Sequence[Any], join: Join) -> Cut | str:
    """The regions of a graph, or why it stays whole.

    Args:
        inputs: what its placeholders stand for.
    """
    reason = why_whole(graph, inputs)
    if reason is not None:
        return reason
    _keep_last_sizes(graph)
    _say_counts(graph)
    for node in graph.graph.find_nodes(op="get_attr"):
        node.meta.setdefault("val", attrgetter(str(node.target))(graph))
    parts = atoms(graph)
    alone = [region_of(part) for part in parts]
    numbers: dict[Hashable, int] = {}
    kinds = [numbers.setdefault(region.key, len(numbers)) for region in alone]
    ranges = join(kinds, [_cost(part) for part in parts])
    regions = [
        region_of([node for part in parts[start:stop] for node in part]) for start, stop in ranges
    ]
    found = Cut(regions)
    for own in found.kinds.values():
        outputs = sorted({i for region in own for i in region.outputs})
        for region in own:
            region.outputs = outputs
    return found


def _cost(part: Sequence[Node]) -> int:
    """Of compiling it, in nodes of ATen."""
    return sum(NODES_OF_MATCH if node.target == OPS["match"].overload else 1 for node in part)


def _keep_last_sizes(graph: GraphModule) -> None:
    """The last merge is like all others if it yields sizes as well, though nobody reads them."""
    match, merge_size = OPS["match"].overload, OPS["merge_size"].overload
    for node in graph.graph.find_nodes(op="call_function", target=match):
        found = {getitem.args[1]: getitem for getitem in node.users}
        kept, moved, target = (found.get(i) for i in range(3))
        if kept is None or moved is None or target is None:
            continue
        if any(user.target == merge_size for user in kept.users):
            continue
        size = node.args[1]
        with graph.graph.inserting_after(max(found.values(), key=lambda n: n.args[1])):
            added = graph.graph.call_function(merge_size, (size, kept, moved, target))
        value = size.meta["val"].new_empty(kept.meta["val"].shape)
        added.meta = {**node.meta, "val": value}


def _say_counts(graph: GraphModule) -> None:
    """Have the number of kept tokens written out behind every match.

    As a symbol of its own it is a plain length to all that follows; as a difference it is none
    that kernels could be known to share.
    """
    match, expand = OPS["match"].overload, torch.ops.aten.expand.default
    for node in graph.graph.find_nodes(op="call_function", target=match):
        for kept in [user for user in node.users if user.args[1] == 0]:
            count = kept.meta["val"].shape[1]
            with graph.graph.inserting_after(kept):
                said = graph.graph.call_function(expand, (kept, [-1, count]))
            said.meta = {**kept.meta, SAYS_COUNT: True}
            kept.replace_all_uses_with(said, lambda user, said=said: user is not said)
