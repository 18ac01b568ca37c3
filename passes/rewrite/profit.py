"""Rewrite as far as it pays, and as the inputs can take it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar

from pitome_fx.options import Options
from pitome_fx.passes.capture.program import Program
from pitome_fx.passes.capture.subclasses import is_wrapper
from pitome_fx.passes.detect.detection import Detection
from pitome_fx.passes.plan.planning import Plan, PlannedMerge
from pitome_fx.passes.rewrite.on_subclasses import why_not_on
from pitome_fx.passes.rewrite.rewriting import Rewritten, rewrite

Judge = Callable[[Rewritten], Collection[PlannedMerge]]
"""Says which merges of a rewritten program cost more than they save."""

UNPROFITABLE = (
    "not profitable: what follows needs all tokens again, so that matching and merging "
    "take more FLOPs than they save"
)


def by_flops(rewritten: Rewritten) -> Collection[PlannedMerge]:
    """Those undone so soon that the program would take fewer FLOPs without them."""
    return rewritten.unprofitable


_JUDGE: ContextVar[Judge] = ContextVar("judge", default=by_flops)


@contextmanager
def judged_by(judge: Judge) -> Iterator[None]:
    """Have another judge say which merges do not pay."""
    token = _JUDGE.set(judge)
    try:
        yield
    finally:
        _JUDGE.reset(token)


def rewrite_what_pays(
    program: Program, detection: Detection, plan: Plan, options: Options
) -> tuple[Plan, Rewritten | None]:
    """Rewrite; again without the merges that do not pay.

    Returns:
        The plan that was carried out, and what came of it: None where nothing merges.
    """
    while plan.merges:
        rewritten = rewrite(program, detection, plan, options)
        losing = _JUDGE.get()(rewritten)
        if losing:
            plan = plan.without(losing, UNPROFITABLE)
            continue
        plan = plan.refusing(rewritten.skipped)
        if not rewritten.merges:
            break
        reason = _why_not_for_subclasses(program, rewritten)
        if reason is None:
            return plan, rewritten
        plan = plan.without(plan.merges, reason)
    return plan, None


def _why_not_for_subclasses(program: Program, rewritten: Rewritten) -> str | None:
    """Why tensor subclasses among the inputs cannot take the merged graph, None if they can."""
    if not any(is_wrapper(value) for value in program.given):
        return None
    shape_env = program.fake_mode.shape_env
    with nullcontext() if shape_env is None else shape_env.suppress_guards():
        return why_not_on(rewritten.graph, program.given, program.fake_mode)
