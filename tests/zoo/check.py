"""What every model of the zoo must pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from pitome_fx import Report
from pitome_fx.errors import CaptureError
from pitome_fx.options import Options
from pitome_fx.passes import pipeline
from pitome_fx.passes.capture.program import capture_dynamo
from pitome_fx.passes.pipeline import Outcome
from pitome_fx.passes.reporting import make_report
from pitome_fx.testing import run_recorded
from pitome_fx.testing.oracle import Simulator
from tests.support.device import DEVICE
from tests.support.models import Case
from tests.support.oracle import relative_error, tensors
from tests.zoo.entry import Call, Entry, of_batch, resized

RATIO = 0.8
ONE = {"ratio": 1.0, "lowering": "eager"}


@dataclass
class Finding:
    """What came of one model.

    Attributes:
        verdict: as ``Entry.verdict``.
        report: on the first call.
        error: of rewritten against simulated, the worst of all graphs and calls.
        problems: everything that does not hold; empty for a model that passes.
    """

    verdict: str
    report: Report
    error: float
    problems: list[str] = field(default_factory=list)


def examine(entry: Entry) -> Finding:
    """Run a model through the pass, beside its simulation, on two batch sizes and two image sizes
    or lengths."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    case = entry.build().to(torch.float64, DEVICE)
    problems: list[str] = []
    with torch.no_grad():
        dense = case.model(*case.args, **case.kwargs)
        beside = Beside(Options.parse({"ratio": RATIO}))
        merged = torch.compile(case.model, backend=beside)
        output = merged(*case.args, **case.kwargs)
        problems += compare_form(output, dense)
        first = make_report(beside.outcomes)
        found = verdict(first)
        if found != entry.verdict:
            problems.append(f"verdict {found!r}, expected {entry.verdict!r}")
        if not first.merged:
            problems += [] if relative_error(output, dense) == 0 else ["refused, but not dense"]
        problems += _untouched_at_ratio_one(case)
        if entry.batch_dim is not None:
            call = of_batch(case, entry.batch_dim, 3)
            problems += _symbolic("batch", case, call, merged, beside, first.merged)
        problems += _other_size(entry, case, beside)
    limit = 1e-9 if beside.is_double else 1e-5
    if not beside.error <= limit:
        problems.append(f"rewritten is not simulated: {beside.error:.1e} > {limit:.0e}")
    return Finding(found, first, beside.error, problems)


class Beside:
    """A Dynamo backend that runs each rewritten graph, and its simulation on the same inputs."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.outcomes: list[Outcome] = []
        self.error = 0.0
        self.is_double = True

    def __call__(self, graph: GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
        try:
            program = capture_dynamo(graph, example_inputs)
        except CaptureError:  # a graph of constants, between two graph breaks
            return graph.forward
        outcome = pipeline.run(lambda: program, self.options)
        self.outcomes.append(outcome)
        if outcome.rewritten is None:
            return graph.forward
        self.is_double &= computes_in_double(outcome.program.graph)
        rewritten = outcome.rewritten.graph

        def run(*inputs: Any) -> Any:
            output, assignments = run_recorded(rewritten, *inputs)
            simulated = Simulator(outcome, assignments).run(*inputs)
            self.error = max(self.error, relative_error(output, simulated))
            return output

        return run


def computes_in_double(graph: GraphModule) -> bool:
    """Is no value of the graph computed in a narrower type?"""
    values = [n.meta.get("val") for n in graph.graph.nodes if n.op == "call_function"]
    floats = [v.dtype for v in values if isinstance(v, Tensor) and v.is_floating_point()]
    return all(dtype == torch.float64 for dtype in floats)


def compare_form(output: Any, dense: Any) -> list[str]:
    """Shapes, dtypes and finiteness that differ from the dense output's."""
    if type(output) is not type(dense):
        return [f"returns {type(output).__name__}, dense {type(dense).__name__}"]
    found, wanted = tensors(output), tensors(dense)
    if [(x.shape, x.dtype) for x in found] != [(x.shape, x.dtype) for x in wanted]:
        return ["shapes or dtypes of the output changed"]
    if any(a.isfinite().all() != b.isfinite().all() for a, b in zip(found, wanted, strict=True)):
        return ["not as finite as dense"]
    return []


def verdict(report: Report) -> str:
    """How many sites merge, and the reasons of the others by their first words."""
    if not report.blocks:
        return "no attention"
    counts = f"{report.merged} of {len(report.blocks)}"
    reasons = {
        str(block.reason).split(":")[0].split(" (")[0]
        for block in report.blocks
        if not block.merged
    }
    return ": ".join([counts, *(["; ".join(sorted(reasons))] if reasons else [])])


def _untouched_at_ratio_one(case: Case) -> list[str]:
    """Bit-identical to what Dynamo makes of the model without the pass."""
    outputs = []
    for settings in ({"backend": "pitome", "options": ONE}, {"backend": "eager"}):
        torch._dynamo.reset()
        torch.manual_seed(0)
        outputs.append(tensors(torch.compile(case.model, **settings)(*case.args, **case.kwargs)))
    same = all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(*outputs, strict=True))
    return [] if same else ["ratio 1.0 changes the output"]


def _other_size(entry: Entry, case: Case, beside: Beside) -> list[str]:
    """At another image size or length: by itself, and in one graph for both."""
    if entry.resize is None:
        args, kwargs = resized(case)
        try:
            case.model(*args, **kwargs)
        except Exception:
            return []
        return ["takes images or texts of another size, but its entry says it does not"]
    call = entry.resize(case)
    before = len(beside.outcomes)
    torch._dynamo.reset()
    alone = torch.compile(case.model, backend=beside, dynamic=False)
    problems = compare_form(alone(*call[0], **call[1]), case.model(*call[0], **call[1]))
    sites = make_report(beside.outcomes[before:]).merged
    merged = torch.compile(case.model, backend=beside)
    return [
        *(f"another size: {problem}" for problem in problems),
        *_symbolic("size", case, call, merged, beside, sites),
    ]


def _symbolic(
    what: str,
    case: Case,
    call: Call,
    merged: Callable[..., Any],
    beside: Beside,
    sites: int,
) -> list[str]:
    """Another call, in a graph in which whatever differs from the case's is symbolic; then the
    case's own in the same graph.

    Args:
        sites: how many merge where the other call has a graph of its own.
    """
    torch._dynamo.reset()
    before = len(beside.outcomes)
    own = (case.args, {**call[1], **case.kwargs})
    for x, other in zip(tensors(own), tensors(call), strict=True):
        for d in range(x.dim()):
            if x.shape[d] != other.shape[d]:
                torch._dynamo.maybe_mark_dynamic(x, d)
                torch._dynamo.maybe_mark_dynamic(other, d)
    problems = compare_form(merged(*call[0], **call[1]), case.model(*call[0], **call[1]))
    now = make_report(beside.outcomes[before:]).merged
    problems += compare_form(merged(*own[0], **own[1]), case.model(*own[0], **own[1]))
    if now != sites:
        problems.append(f"{now} sites merge where it is symbolic, {sites} where it is not")
    return [f"second {what}: {problem}" for problem in problems]
