"""The comparison behind most tests: a transformed program against its simulation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

import pitome_fx
from pitome_fx import Report
from pitome_fx.testing import run_recorded, simulate
from tests.support.models import Case

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
"""How far a rewritten program may be from its simulation, relative to the largest value."""


@dataclass(frozen=True)
class Run:
    """A transformed program and what it computed.

    Attributes:
        graph: the transformed module.
        output: its output.
        assignments: for every merge the group (B, N) of each original token.
        dense: the output of the original model.
    """

    graph: GraphModule
    output: Any
    assignments: list[Tensor]
    dense: Any


def transformed(case: Case, **options: Any) -> GraphModule:
    """The case's model on merged tokens; a refusal or a failing pass raises."""
    options = {"strict": True, **options}
    return pitome_fx.transform(case.model, case.args, case.kwargs, **options)


def explained(case: Case, **options: Any) -> Report:
    """The report on the case's model."""
    with torch.no_grad():
        return pitome_fx.explain(case.model, case.args, case.kwargs, **options)


def counts(report: Report) -> list[tuple[int, int]]:
    """Tokens before and after every attention site."""
    return [(block.tokens_before, block.tokens_after) for block in report.blocks]


def expected(case: Case, **options: Any) -> Any:
    """What the case's model computes on merged tokens, by simulation."""
    with torch.no_grad():
        return simulate(case.model, case.args, case.kwargs, **options)


def assert_keeps_the_law(
    case: Case, program: ExportedProgram | nn.Module | None = None, **options: Any
) -> Run:
    """The transformed program computes what the dense graph computes on merged-then-lifted tokens.

    In float64 the simulation takes its own decisions. In narrower types, where two tokens may be
    equally similar up to rounding, it replays those of the run.

    Args:
        program: the case's model or an export of it, to save exporting it again.
    """
    program = program or case.model
    with torch.no_grad():
        graph = pitome_fx.transform(program, case.args, case.kwargs, strict=True, **options)
        graph = graph.module() if isinstance(graph, ExportedProgram) else graph
        output, assignments = run_recorded(graph, *case.args, **case.kwargs)
        dense = case.model(*case.args, **case.kwargs)
        replayed = None if case.dtype == torch.float64 else assignments
        wanted = simulate(program, case.args, case.kwargs, assignments=replayed, **options)
    assert_close(output, wanted, TOLERANCE[case.dtype])
    assert_same_form(output, dense)
    return Run(graph, output, assignments, dense)


def relative_error(actual: Any, wanted: Any) -> float:
    """Largest difference over all tensors of two outputs, each relative to its largest value."""
    worst = 0.0
    for a, b in zip(tensors(actual), tensors(wanted), strict=True):
        if not torch.equal(a.isfinite(), b.isfinite()):
            return float("inf")
        a, b = (torch.where(x.isfinite(), x, 0).double() for x in (a, b))
        worst = max(worst, float((a - b).abs().max() / b.abs().max().clamp_min(1e-300)))
    return worst


def assert_close(actual: Any, wanted: Any, tolerance: float) -> None:
    """Two outputs agree up to a relative error."""
    error = relative_error(actual, wanted)
    assert error <= tolerance, f"relative error {error:.1e}, allowed {tolerance:.0e}"


def assert_equal(actual: Any, wanted: Any) -> None:
    """Two outputs agree bit by bit."""
    for a, b in zip(tensors(actual), tensors(wanted), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def assert_same_form(actual: Any, wanted: Any) -> None:
    """Two outputs have the same structure, shapes and dtypes."""
    assert type(actual) is type(wanted)
    for a, b in zip(tensors(actual), tensors(wanted), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


def tensors(output: Any) -> list[Tensor]:
    """All tensors of an output, in order."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def pitome_nodes(graph: GraphModule, name: str) -> list[torch.fx.Node]:
    """All nodes of one pitome op, in order."""
    op = getattr(torch.ops.pitome, name).default
    return list(graph.graph.find_nodes(op="call_function", target=op))
