"""Lowers a merged graph region by region, where that compiles less."""

from __future__ import annotations

import logging
import warnings
from functools import partial

import torch
from torch import Tensor
from torch._dynamo.exc import RestartAnalysis, SkipFrame
from torch.fx import GraphModule

from pitome_fx.backends.kinds import CompileOne, compile_all
from pitome_fx.backends.lowering import Compiled, Job
from pitome_fx.errors import PitomeWarning, in_short
from pitome_fx.passes.capture.program import without_collecting
from pitome_fx.passes.plan.flops import COUNTED
from pitome_fx.passes.regions.cutting import Cut, cut
from pitome_fx.passes.regions.joining import join

logger = logging.getLogger(__name__)

SECONDS_OF_A_CALL = 20e-6
SHARE_OF_CALLS = 0.05
"""What calls may take of the estimated time of a run; they were measured at 14 to 30 µs each."""

FLOPS_PER_SECOND = {"cpu": 80e9, "other": 100e12}
"""Of one core, and of an accelerator; rough, and on the high side."""

FEWEST_CALLS = 8


def by_regions(job: Job, compile_one: CompileOne, why_whole: str | None) -> Compiled | None:
    """What runs the job's graph region by region; None where it is to be compiled as a whole.

    Args:
        why_whole: why the lowering has to see the whole graph, None if it need not.
    """
    found: Cut | str
    if why_whole is not None:
        found = why_whole
    else:
        most = _most_calls(job.graph)
        with without_collecting():
            found = cut(job.graph, job.example_inputs, partial(join, most_calls=most))
        if isinstance(found, Cut) and len(found.kinds) == len(found.regions):
            found = "no two parts of it are alike"
    if isinstance(found, Cut):
        try:
            return compile_all(job, found, compile_one)
        except (RestartAnalysis, SkipFrame):
            raise
        except Exception as error:
            # Whatever it is, it is no reason to lose more than the time.
            logger.debug("compiling by regions failed", exc_info=error)
            found = f"compiling a region failed ({in_short(error)})"
    logger.info("compiled as a whole: %s", found)
    if job.options.regions is True:
        warnings.warn(
            f"pitome: regions=True, but the graph is compiled as a whole: {found}.",
            PitomeWarning,
            stacklevel=5,
        )
    return None


def _most_calls(graph: GraphModule) -> int:
    """How many calls take a small share of a run."""
    values = (node.meta.get("val") for node in graph.graph.nodes)
    device = next((x.device.type for x in values if isinstance(x, Tensor)), "cpu")
    speed = FLOPS_PER_SECOND.get(device, FLOPS_PER_SECOND["other"])
    seconds = _rough_flops(graph) / (speed * (torch.get_num_threads() if device == "cpu" else 1))
    return max(FEWEST_CALLS, int(seconds * SHARE_OF_CALLS / SECONDS_OF_A_CALL))


def _rough_flops(graph: GraphModule) -> int:
    """Of its products, as if each summed over the last dimension of its first operand."""
    total = 0
    for node in graph.graph.nodes:
        value = node.meta.get("val")
        if node.target in COUNTED and isinstance(value, Tensor):
            total += 2 * value.numel() * node.all_input_nodes[0].meta["val"].shape[-1]
    return total
