"""The pipeline: capture → detect → plan → rewrite → dissolve.

Every front end calls it, and each stage is a function from what the stages before it found.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch.fx import GraphModule

from pitome_fx.options import Options
from pitome_fx.passes.capture.program import Program, without_collecting
from pitome_fx.passes.detect.detection import Detection, detect
from pitome_fx.passes.dissolve.dissolving import dissolve
from pitome_fx.passes.failures import failing_in
from pitome_fx.passes.observing import Observe, log
from pitome_fx.passes.plan.planning import Plan, make_plan
from pitome_fx.passes.rewrite.profit import rewrite_what_pays
from pitome_fx.passes.rewrite.rewriting import Rewritten


@dataclass(frozen=True)
class Outcome:
    """What the pipeline made of one program.

    Attributes:
        plan: as it was carried out.
        options: with all defaults resolved.
        rewritten: the merged program; None where nothing merges, and the dense one is to be used.
        merged: its graph in the form that the options ask for.
        seconds: wall time of each stage.
    """

    program: Program
    detection: Detection
    plan: Plan
    options: Options
    rewritten: Rewritten | None
    merged: GraphModule | None
    seconds: dict[str, float]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of what merges."""
        own = self.program.notes if self.rewritten is not None else ()
        return (*([self.plan.note] if self.plan.note else []), *own)


def run(capture: Callable[[], Program], options: Options, observe: Observe = log) -> Outcome:
    """The stages in order, on the program that ``capture`` yields.

    Raises:
        PassError: a stage failed; the text says where.
    """
    options = options.resolved()
    stages = Stages(observe)
    with without_collecting():
        program = stages.run("capture", capture)
        detection = stages.run("detect", detect, program, options.protected)
        plan = stages.run("plan", make_plan, program, detection, options)
        how = (program, detection, plan, options)
        plan, rewritten = stages.run("rewrite", rewrite_what_pays, *how)
        merged = stages.run("dissolve", _in_form, program, rewritten, options)
    return Outcome(program, detection, plan, options, rewritten, merged, stages.seconds)


def _in_form(program: Program, rewritten: Rewritten | None, options: Options) -> GraphModule | None:
    """The merged graph with the ops that the options ask for."""
    if rewritten is None:
        return None
    assert options.form is not None
    return dissolve(rewritten.graph, program.inputs, options.form, guarded=program.recompiles)


@dataclass
class Stages:
    """Runs stage after stage.

    Attributes:
        observe: is told of each when it is done.
        seconds: wall time of each.
    """

    observe: Observe
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, name: str, stage: Callable[..., Any], *given: Any) -> Any:
        """Run one; an unexpected error in it becomes a PassError."""
        start = time.perf_counter()
        with failing_in(name):
            value = stage(*given)
        self.seconds[name] = time.perf_counter() - start
        self.observe(name, self.seconds[name], value)
        return value
