"""explain: what the pass makes of a model, without compiling it for good."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.exc import BackendCompilerFailed
from torch.export import ExportedProgram
from torch.fx import GraphModule

from pitome_fx.backends.fallback import with_fallback
from pitome_fx.errors import CaptureError, PassError, PitomeError, in_short
from pitome_fx.frontends.compiling import compiled_apart
from pitome_fx.options import AMOUNTS, Options
from pitome_fx.passes import pipeline
from pitome_fx.passes.capture.functional import written_inputs
from pitome_fx.passes.capture.guards import tentative
from pitome_fx.passes.capture.program import (
    NothingToTraceError,
    Program,
    capture_dynamo,
    capture_exported,
)
from pitome_fx.passes.dissolve.exported import inputs_of
from pitome_fx.passes.failures import failing_in, runs_dense
from pitome_fx.passes.pipeline import Outcome
from pitome_fx.passes.reporting import make_report
from pitome_fx.report import Report
from pitome_fx.switch import why_off

NO_GRAPH = (
    "torch.compile captured no graph of this model, or hit the recompile limit: it runs in plain "
    "Python, where nothing merges (TORCH_LOGS='graph_breaks' says why)"
)

OLD_SPELLING = (
    "pitome_fx.explain(model, *args, options={…}, **kwargs) will not be understood any more: write "
    "pitome_fx.explain(model, args, kwargs, **options), as for transform"
)


def explain(
    model: torch.nn.Module | Any,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *inputs: Any,
    html: Path | str | None = None,
    **options: Any,
) -> Report:
    """Run the model once through the pass and report what becomes of it.

    A graph that the pass fails on is left dense, as torch.compile leaves it, and a note of the
    report says where and why. Another says so where torch.compile captures no graph at all.

    Args:
        model: a module or any callable that torch.compile takes; an ExportedProgram.
        args, kwargs: inputs of the model, as for ``transform``; an ExportedProgram needs none.
        inputs: further inputs, in the spelling ``explain(model, *args, options={…}, **kwargs)``,
            which is deprecated.
        html: file to write the report to as a page, with the graphs before and after; it needs
            no other file, no network and no script.
        options: as in ``Options``.

    Raises:
        OptionsError: an option is wrong, or the page cannot be written.
    """
    if _is_old_spelling(args, kwargs, inputs, options):
        warnings.warn(OLD_SPELLING, FutureWarning, stacklevel=2)
        args = tuple(x for x in (args, kwargs, *inputs) if x is not None)
        kwargs, options = options, options.pop("options", None) or {}
    found = Findings(Options.parse(options))
    if html is None:
        _run(model, args, kwargs, found)
        return found.report()
    # Whoever wants no page need not wait for what makes one to be imported.
    from pitome_fx.page import contents, drawing, writing

    path = writing.check(html)
    _run(model, args, kwargs, found)
    report = found.report()
    pictures, why_none = drawing.drawn(model, args, kwargs, found.options, report)
    shown = contents.Contents(
        model=contents.name_of(model),
        report=report,
        outcomes=found.outcomes,
        options=found.options,
        names=contents.names_of(model),
        pictures=pictures,
        no_pictures=why_none,
    )
    writing.write(path, shown)
    return report


def _run(
    model: Any, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, found: Findings
) -> None:
    """Run the model once, each of its graphs through the pass."""
    off = why_off()
    if off is not None:
        found.merge_nothing(off)
    if isinstance(model, ExportedProgram):
        with tentative(inputs_of(model)):
            found.outcome_of(lambda: capture_exported(model))
        return
    graphs: list[GraphModule] = []

    def record(graph: GraphModule, example_inputs: list[Any]) -> Any:
        graphs.append(graph)
        outcome = found.outcome_of(lambda: capture_dynamo(graph, example_inputs))
        if outcome is None or outcome.rewritten is None:
            return graph.forward
        merged = outcome.rewritten.graph
        return with_fallback(
            merged.forward,
            written_inputs(merged),
            lambda: graph.forward,
            found.say_first_run_failed,
        )

    try:
        compiled_apart(model, record)(*(args or ()), **(kwargs or {}))
    except BackendCompilerFailed as failure:
        if isinstance(failure.inner_exception, PitomeError):
            raise failure.inner_exception from None
        raise
    if not graphs:
        found.notes.append(NO_GRAPH)


def _is_old_spelling(args: Any, kwargs: Any, inputs: Any, options: Mapping[str, Any]) -> bool:
    """Do the arguments hold the inputs themselves, and the options in a dict?"""
    return (
        not isinstance(args, Sequence | None)
        or not isinstance(kwargs, Mapping | None)
        or bool(inputs)
        or "options" in options
        or any(isinstance(value, torch.Tensor) for value in options.values())
    )


@dataclass
class Findings:
    """What the pass made of the graphs of one model so far."""

    options: Options
    outcomes: list[Outcome] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def merge_nothing(self, why: str) -> None:
        """Report the dense model, whatever amount was asked for."""
        amount: dict[str, Any] = {**dict.fromkeys(AMOUNTS), "ratio": 1.0}
        self.options = replace(self.options, **amount)
        self.notes.append(f"the model runs dense: {why}")

    def outcome_of(self, capture: Callable[[], Program]) -> Outcome | None:
        """Run the pass on one graph; None where it is left dense without a verdict."""
        try:
            outcome = pipeline.run(capture, replace(self.options, form="pitome"))
        except NothingToTraceError:
            return None
        except CaptureError as error:
            self.notes.append(f"the model runs dense: {error}")
            return None
        except PassError as error:
            self.notes.append(runs_dense(error))
            return None
        self.outcomes.append(outcome)
        return outcome

    def say_first_run_failed(self, error: Exception) -> None:
        """Note why a merged graph is left dense after all."""
        self.notes.append(f"a merged graph fails when it runs ({in_short(error)})")

    def report(self) -> Report:
        """One report over all graphs."""
        try:
            with failing_in("report"):
                return make_report(self.outcomes, self.notes, self.options)
        except PassError as error:
            self.outcomes = []
            self.notes.append(str(error))
            return make_report([], self.notes, self.options)
