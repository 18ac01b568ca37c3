"""A program through the pass, fast: one trace by make_fx, no Dynamo and no export."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule

from pitome_fx.frontends.transform import spelled_out_layers
from pitome_fx.options import Options
from pitome_fx.passes import pipeline
from pitome_fx.passes.capture.program import Program, capture
from pitome_fx.passes.detect.detection import detect
from pitome_fx.passes.pipeline import Outcome
from pitome_fx.passes.plan.planning import allowed
from pitome_fx.passes.reporting import make_report
from pitome_fx.passes.rewrite.profit import judged_by
from pitome_fx.report import Report
from pitome_fx.testing import run_recorded
from pitome_fx.testing.oracle import Simulator
from pitome_fx.testing.recorded import Assignments
from tests.properties import description as d
from tests.properties.build import build
from tests.support.oracle import relative_error

LIMIT = 1e-9


@dataclass(frozen=True)
class Flat:
    """A module as a function of flat tensors: parameters, buffers, inputs → outputs."""

    module: nn.Module
    inputs: tuple[Tensor, ...]

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers by name."""
        return {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}

    def fresh(self) -> list[Tensor]:
        """Arguments for one run, which may write to the inputs."""
        return [*self.state.values(), *(x.clone() for x in self.inputs)]

    def __call__(self, *flat: Tensor) -> tuple[Tensor, ...]:
        state = dict(zip(self.state, flat, strict=False))
        output = torch.func.functional_call(self.module, state, flat[len(state) :])
        return tuple(leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor))

    def captured(self) -> Program:
        """As the front ends capture it."""

        def program(*flat: Tensor) -> tuple[Tensor, ...]:
            return self(*flat)

        graph = Graph()
        values = [*self.state.values(), *self.inputs]
        nodes = tuple(graph.placeholder(f"input_{i}") for i in range(len(values)))
        graph.output(graph.call_function(program, nodes))
        held = [x if isinstance(x, nn.Parameter) else None for x in values]
        count = len(self.state)
        constant = [i < count and held[i] is None for i in range(len(values))]
        source = GraphModule({}, graph)
        return capture(source, self.fakes(values), held, constant)

    def fakes(self, values: list[Tensor]) -> list[Tensor]:
        """What stands for the tensors in the trace."""
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        return [mode.from_tensor(x) for x in values]


@dataclass(frozen=True)
class Trial:
    """One program under one set of options.

    Attributes:
        output: what the rewritten graph returns, and its inputs afterwards.
        simulated: the oracle's outputs and inputs; the same for ``dense``, the module itself, and
            for ``captured``, the graph that the pass was given.
        assignments: the group (B, N) of each token after every merge.
        waived: why the law it was tried for says nothing of it, "" where the law holds.
    """

    outcome: Outcome
    flat: Flat
    output: tuple[Tensor, ...]
    simulated: tuple[Tensor, ...]
    dense: tuple[Tensor, ...]
    captured: tuple[Tensor, ...]
    assignments: list[Tensor]
    waived: str = ""

    @property
    def merges(self) -> int:
        """Merges that took place."""
        return 0 if self.outcome.rewritten is None else len(self.outcome.rewritten.merges)

    @property
    def report(self) -> Report:
        return make_report([self.outcome])


def every_merge_pays(pays: bool) -> AbstractContextManager[None]:
    """Keep merges that the count of FLOPs would drop: on small programs most of them."""
    return judged_by(lambda rewritten: ()) if pays else nullcontext()


def run(program: d.Program, options: d.Options) -> Trial:
    """The program, its rewrite and its simulation, on the same inputs.

    Args:
        options: as in ``Options``; ``pays=True`` keeps merges that do not pay too.
    """
    flat = Flat(*build(program))
    return tried(rewritten(flat, options), flat)


def captured(flat: Flat) -> Program:
    """A module as a program for the pass."""
    with torch.no_grad(), spelled_out_layers():
        return flat.captured()


def rewritten(flat: Flat, options: d.Options, program: Program | None = None) -> Outcome:
    """What the pass makes of a module on inputs of these shapes."""
    program = program or captured(flat)
    with torch.no_grad(), every_merge_pays(options.get("pays", False)):
        return pipeline.run(lambda: program, _parsed(options, program))


def _parsed(options: d.Options, program: Program) -> Options:
    """Of a schedule as many values as the program has blocks that may merge."""
    parsed = Options.parse({key: value for key, value in options.items() if key != "pays"})
    if parsed.schedule is None:
        return parsed
    protect = None if parsed.protect == "auto" else parsed.protect
    blocks, _ = allowed(detect(program, protect), parsed.resolved())
    return replace(parsed, schedule=parsed.schedule[: max(len(blocks), 1)])


def of_users(options: d.Options) -> d.Options:
    """The options of a caller who knows nothing of the number of blocks."""
    chosen = {key: value for key, value in options.items() if key not in ("pays", "schedule")}
    return chosen if len(chosen.keys() & {"ratio", "r", "flops"}) else {**chosen, "ratio": 0.75}


@torch.no_grad()
def tried(outcome: Outcome, flat: Flat) -> Trial:
    """A module that was rewritten, on its inputs."""
    dense = dense_of(flat)
    captured = with_writes(outcome.program.graph, flat)
    if outcome.rewritten is None:
        return Trial(outcome, flat, dense, dense, dense, captured, [])
    output, assignments = recorded(outcome, flat)
    simulated = with_writes(Simulator(outcome, assignments).run, flat)
    return Trial(outcome, flat, output, simulated, dense, captured, assignments)


@torch.no_grad()
def dense_of(flat: Flat) -> tuple[Tensor, ...]:
    """What the module itself computes."""
    with spelled_out_layers():
        return with_writes(flat, flat)


def recorded(outcome: Outcome, flat: Flat) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """What the rewritten module computes, and its groups."""
    assert outcome.rewritten is not None
    graph, assignments = outcome.rewritten.graph, Assignments()

    def run(*values: Tensor) -> tuple[Tensor, ...]:
        output, found = run_recorded(graph, *values)
        assignments.extend(found)
        return output

    return with_writes(run, flat), assignments


@torch.no_grad()
def with_writes(f: Any, flat: Flat) -> tuple[Tensor, ...]:
    """Outputs, followed by the inputs as the run left them."""
    values = flat.fresh()
    return (*f(*values), *values[len(flat.state) :])


def worst_error(actual: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> float:
    """The relative error, infinite where only one is NaN or infinite, or infinities differ."""
    for a, b in zip(actual, wanted, strict=True):
        if a.numel() == 0:
            continue
        if a.is_floating_point() and not torch.equal(a.isnan(), b.isnan()):
            return float("inf")
        if not torch.equal(a == torch.inf, b == torch.inf):
            return float("inf")
    full = [(a, b) for a, b in zip(actual, wanted, strict=True) if a.numel()]
    return relative_error([a for a, _ in full], [b for _, b in full])
