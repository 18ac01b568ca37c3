"""How many regions a graph may be cut into: their calls take a small share of a run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from pitome_fx.passes.capture.program import without_collecting
from pitome_fx.passes.plan.flops import COUNTED
from pitome_fx.passes.regions.cutting import Cut, cut
from pitome_fx.passes.regions.joining import join

SECONDS_OF_A_CALL = 20e-6
SHARE_OF_CALLS = 0.05
"""What calls may take of the estimated time of a run; they were measured at 14 to 30 µs each."""

FLOPS_PER_SECOND = {"cpu": 80e9, "other": 100e12}
"""Of one core, and of an accelerator; rough, and on the high side."""

FEWEST_CALLS = 8


def cut_where_alike(graph: GraphModule, inputs: Sequence[Any]) -> Cut | str:
    """The regions of a graph, or why it is better compiled as a whole.

    Args:
        inputs: what its placeholders stand for.
    """
    with without_collecting():
        found = cut(graph, inputs, partial(join, most_calls=most_calls(graph)))
    if isinstance(found, Cut) and len(found.kinds) == len(found.regions):
        return "no two parts of it are alike"
    return found


def most_calls(graph: GraphModule) -> int:
    """How many calls take a small share of a run."""
    values = (node.meta.get("val") for node in graph.graph.nodes)
    device = next((x.device.type for x in values if isinstance(x, Tensor)), "cpu")
    speed = FLOPS_PER_SECOND.get(device, FLOPS_PER_SECOND["other"])
    seconds = _rough_flops(graph) / (speed * (torch.get_num_threads() if device == "cpu" else 1))
    return max(FEWEST_CALLS, int(seconds * SHARE_OF_CALLS / SECONDS_OF_A_CALL))


def _rough_flops(graph: GraphModule) -> int:
    """Of its products, as if each summed over the last dimension of its first operand.

    For the order of magnitude; counting them takes longer than cutting.
    """
    total = 0
    for node in graph.graph.nodes:
        value = node.meta.get("val")
        if node.target in COUNTED and isinstance(value, Tensor):
            total += 2 * value.numel() * node.all_input_nodes[0].meta["val"].shape[-1]
    return total
