"""The backend: ``torch.compile(model, backend="pitome", options={…})``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch._dynamo.exc import RestartAnalysis, SkipFrame
from torch._guards import TracingContext, tracing
from torch.fx import GraphModule

from pitome_fx.backends.failed import mention
from pitome_fx.backends.fallback import with_fallback
from pitome_fx.backends.guarding import merging_is_on
from pitome_fx.backends.inductor import with_form
from pitome_fx.backends.lower import check_lowering, lower
from pitome_fx.backends.lowering import Job
from pitome_fx.backends.reproducer import Failure
from pitome_fx.backends.verdict import verdict_on
from pitome_fx.errors import (
    OptionsError,
    PassError,
    PitomeError,
    PitomeWarning,
    RefusedError,
    in_short,
)
from pitome_fx.ops import is_pitome_op
from pitome_fx.options import Options
from pitome_fx.passes import pipeline
from pitome_fx.passes.capture.functional import written_inputs
from pitome_fx.passes.capture.guards import is_symbolic, tentative
from pitome_fx.passes.capture.program import NothingToTraceError, capture_dynamo, inputs_of_dynamo
from pitome_fx.passes.failures import REPORT_IT, failing_in, runs_dense
from pitome_fx.passes.pipeline import Outcome
from pitome_fx.passes.reporting import make_report

logger = logging.getLogger(__name__)


def pitome(
    graph: GraphModule,
    example_inputs: list[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """Merge tokens in a Dynamo graph and lower it. Registered under the name ``pitome``.

    Args:
        graph: the graph that Dynamo captured.
        example_inputs: its inputs.
        mode: ``mode=`` of torch.compile, handed to Inductor.
        options: see ``pitome_fx.Options``.

    Raises:
        OptionsError: an option is wrong.
        RefusedError: with ``strict=True``, nothing merges in the whole function; where it has
            several graphs, its call raises this before it returns (see ``verdict``).
    """
    parsed = with_form(Options.parse(options))
    check_lowering(parsed, mode)
    dense = Job(graph, example_inputs, parsed, mode, merged=False)
    merged = _try_merge(dense) if merging_is_on(parsed) else None
    if merged is not None:
        written = written_inputs(merged)
        try:
            lowered = lower(replace(dense, graph=merged, merged=True, dense=dense))
            if parsed.strict:
                return lowered
            say = partial(_say_first_run_failed, dense)
            return with_fallback(lowered, written, _when_called_for(dense), say)
        except (OptionsError, RestartAnalysis, SkipFrame):
            raise
        except Exception as error:
            _warn_or_raise(error, dense, "lowering")
    return lower(dense)


def _when_called_for(dense: Job) -> Callable[[], Callable[..., Any]]:
    """Lowers the dense graph after Dynamo has done its work."""
    context = TracingContext.try_get()
    symbolic = any(is_symbolic(value) for value in dense.example_inputs)

    def lower_dense() -> Callable[..., Any]:
        if symbolic:
            # No guard that compiling it asked for would be heeded any more.
            return dense.graph.forward
        with tracing(context):
            return lower(dense)

    return lower_dense


def _try_merge(dense: Job) -> GraphModule | None:
    """The merged graph, None where the model must run dense (said in a warning)."""
    graph, example_inputs, options = dense.graph, dense.example_inputs, dense.options
    verdict = verdict_on(options)
    try:
        outcome = _run(graph, example_inputs, options)
        with failing_in("report"):
            sites = make_report([outcome]).blocks if outcome.rewritten is None else ()
    except (OptionsError, RestartAnalysis, SkipFrame):
        raise
    except NothingToTraceError:
        verdict.add(graph, "dense")
        return None
    except Exception as error:
        verdict.add(graph, "failed")
        _warn_or_raise(error, dense, "pass")
        return None
    if outcome.rewritten is None:
        verdict.add(graph, "dense", sites)
        return None
    verdict.add(graph, "merged")
    for note in outcome.notes:
        warnings.warn(f"pitome: {note}", PitomeWarning, stacklevel=2)
    return outcome.merged


WHAT_FAILED: dict[Failure, str] = {
    "pass": "the pass failed",
    "lowering": "the lowering of its merged graph failed",
    "first_run": "the first run of its merged graph failed",
}


def _warn_or_raise(error: Exception, dense: Job, failure: Failure) -> None:
    """A bug of ours, or a limit of the engine, costs the user the speed-up, not the model."""
    if dense.options.strict:
        raise error
    what = WHAT_FAILED[failure]
    logger.debug("%s", what, exc_info=error)
    if isinstance(error, PassError):
        reason = runs_dense(error)
    elif isinstance(error, PitomeError):
        reason = f"the model runs dense: {error}"
    else:
        reason = f"the model runs dense: {what} ({in_short(error)}): {REPORT_IT}"
    said = f"pitome: {reason.removesuffix('.')}."
    warnings.warn(said + mention(failure, dense, error, said), PitomeWarning, stacklevel=4)


def _say_first_run_failed(dense: Job, error: Exception) -> None:
    what = WHAT_FAILED["first_run"]
    logger.debug("%s", what, exc_info=error)
    said = f"pitome: the model runs dense: {what} ({in_short(error)}): {REPORT_IT}."
    warnings.warn(said + mention("first_run", dense, error, said), PitomeWarning, stacklevel=4)


def _run(graph: GraphModule, example_inputs: Sequence[Any], options: Options) -> Outcome:
    """The pass. Guards that it asks for stay where something merges, or would at other sizes."""
    if any(is_pitome_op(node.target) for node in graph.graph.nodes):
        raise RefusedError(
            "this model is transformed already: its graph contains pitome ops. "
            "Compile it with another backend, or compile the original model."
        )
    with tentative(inputs_of_dynamo(graph, example_inputs)) as guards:
        outcome = pipeline.run(lambda: capture_dynamo(graph, example_inputs), options)
        if outcome.merged is not None:
            _keep_dynamo_notes(graph, outcome.merged)
        if outcome.detection.blocks:
            guards.keep()
    return outcome


def _keep_dynamo_notes(source: GraphModule, graph: GraphModule) -> None:
    """Hand on what Inductor reads off a Dynamo graph: static inputs, names, the compile's id."""
    graph.meta.update(source.meta)
    old = source.graph.find_nodes(op="placeholder")
    new = graph.graph.find_nodes(op="placeholder")
    for before, after in zip(old, new, strict=True):
        after.meta.update({k: v for k, v in before.meta.items() if k not in ("val", "tensor_meta")})
        if hasattr(before, "_dynamo_source"):
            after._dynamo_source = before._dynamo_source
        after.name = after.target = before.name
    graph.recompile()
