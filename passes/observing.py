"""What is told of each stage: one line with its time, and the graph that comes of the rewrite.

The lines go to ``TORCH_LOGS="pitome_fx"``, with graphs to ``"+pitome_fx"``, and the rewritten graph
to tlparse where ``TORCH_TRACE`` is set. torch puts before each line which compile it is of.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule

from pitome_fx.passes.capture.program import Program
from pitome_fx.passes.detect.detection import Detection
from pitome_fx.passes.plan.planning import Plan
from pitome_fx.passes.rewrite.rewriting import Rewritten

logger = logging.getLogger(__name__)

Observe = Callable[[str, float, Any], None]
"""Is told the name of each stage that is done, its seconds, and what it yields."""


def log(stage: str, seconds: float, value: Any) -> None:
    """Log what a stage of the pipeline yields."""
    log_line(stage, seconds, SUMMARIES[stage](value))
    if stage == "rewrite" and value[1] is not None:
        _log_graph(value[1].graph)


def log_line(stage: str, seconds: float, text: str) -> None:
    """Log one line, as ``rewrite  0.31 s  12 merges, 0 lifts``."""
    logger.info("%-8s %.2f s  %s", stage, seconds, text)


def _log_graph(graph: GraphModule) -> None:
    logger.debug("%s", graph.graph)
    text = graph.print_readable(print_output=False)
    torch._logging.trace_structured(
        "artifact",
        metadata_fn=lambda: {"name": "pitome_rewritten_graph", "encoding": "string"},
        payload_fn=lambda: text,
    )


def _captured(program: Program) -> str:
    return _nodes(program.graph)


def _detected(detection: Detection) -> str:
    return f"{len(detection.sites)} sites, {len(detection.blocks)} of which may merge"


def _planned(plan: Plan) -> str:
    return f"{len(plan.merges)} merges planned"


def _rewritten(found: tuple[Plan, Rewritten | None]) -> str:
    rewritten = found[1]
    if rewritten is None:
        return "nothing merges"
    return f"{len(rewritten.merges)} merges, {len(rewritten.lifts)} lifts"


def _dissolved(graph: GraphModule | None) -> str:
    return "nothing merges" if graph is None else _nodes(graph)


def _nodes(graph: GraphModule) -> str:
    return f"{len(graph.graph.nodes)} nodes"


SUMMARIES: dict[str, Callable[[Any], str]] = {
    "capture": _captured,
    "detect": _detected,
    "plan": _planned,
    "rewrite": _rewritten,
    "dissolve": _dissolved,
}
"""Stage → what is said of what it yields."""
