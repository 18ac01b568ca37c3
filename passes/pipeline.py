"""The stages in order."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch

from pitome_fx.options import Options
from pitome_fx.passes.capture import Program
from pitome_fx.passes.detect import Detection, detect
from pitome_fx.passes.failures import failing_in
from pitome_fx.passes.plan import Plan, make_plan
from pitome_fx.passes.rewrite import Rewritten, rewrite
from pitome_fx.passes.subclasses import is_wrapper, why_not_on

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What the pipeline made of one program.

    Attributes:
        rewritten: the merged program; None where nothing merges, and the dense one is to be used.
        seconds: wall time of each stage.
    """

    program: Program
    detection: Detection
    plan: Plan
    options: Options
    rewritten: Rewritten | None
    seconds: dict[str, float]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of what merges."""
        own = self.program.notes if self.rewritten is not None else ()
        return (*([self.plan.note] if self.plan.note else []), *own)


@dataclass
class Clock:
    """Wall time of the stages."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage under its name; what fails in it is one PassError."""
        start = time.perf_counter()
        with failing_in(name):
            yield
        self.seconds[name] = time.perf_counter() - start


def run(program: Program, options: Options, clock: Clock | None = None) -> Outcome:
    """detect → plan → rewrite on a captured program."""
    options = options.resolved()
    clock = clock or Clock()
    with clock.stage("detect"):
        detection = detect(program, None if options.protect == "auto" else options.protect)
    with clock.stage("plan"):
        plan = make_plan(program, detection, options)
    with clock.stage("rewrite"):
        plan, rewritten = _rewrite_what_pays(program, detection, plan, options)
        reason = None if rewritten is None else _why_not_for_subclasses(program, rewritten)
        if reason is not None:
            plan, rewritten = plan.without(plan.merges, reason), None
    _log(rewritten)
    return Outcome(program, detection, plan, options, rewritten, clock.seconds)


def _rewrite_what_pays(
    program: Program, detection: Detection, plan: Plan, options: Options
) -> tuple[Plan, Rewritten | None]:
    """Rewrite; where lifts undo what a merge saves, again without that merge."""
    while plan.merges:
        rewritten = rewrite(program, detection, plan, options)
        if not rewritten.unprofitable:
            return plan, rewritten if rewritten.merges else None
        plan = plan.without(
            rewritten.unprofitable,
            "not profitable: what follows needs all tokens again, so that matching and merging "
            "take more FLOPs than they save",
        )
    return plan, None


def _why_not_for_subclasses(program: Program, rewritten: Rewritten) -> str | None:
    """Why tensor subclasses among the inputs cannot take the merged graph, None if they can."""
    if not any(is_wrapper(value) for value in program.given):
        return None
    shape_env = program.fake_mode.shape_env
    with nullcontext() if shape_env is None else shape_env.suppress_guards():
        return why_not_on(rewritten.graph, program.given, program.fake_mode)


def _log(rewritten: Rewritten | None) -> None:
    if rewritten is None:
        logger.info("nothing merges")
        return
    logger.info("%d merges, %d lifts", len(rewritten.merges), len(rewritten.lifts))
    logger.debug("%s", rewritten.graph.graph)
    text = rewritten.graph.print_readable(print_output=False)
    torch._logging.trace_structured(
        "artifact",
        metadata_fn=lambda: {"name": "pitome_rewritten_graph", "encoding": "string"},
        payload_fn=lambda: text,
    )
