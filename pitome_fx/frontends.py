"""transform and explain: the pass outside torch.compile."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, overload

import torch
from torch._dynamo.exc import BackendCompilerFailed
from torch.export import ExportedProgram
from torch.fx import GraphModule

from pitome_fx.algorithms import is_shipped
from pitome_fx.errors import CaptureError, PitomeError, PitomeWarning, RefusedError
from pitome_fx.guards import as_it_was, drop_layout_guards, unguarded
from pitome_fx.options import Form, Options, known_lowerings, unknown_lowering
from pitome_fx.passes import pipeline
from pitome_fx.passes.capture import capture_dynamo, capture_exported
from pitome_fx.passes.dissolve import dissolve
from pitome_fx.passes.pipeline import Outcome
from pitome_fx.passes.reporting import make_report
from pitome_fx.rebuild import rebuilt
from pitome_fx.report import Report
from pitome_fx.transformed import TransformedModule


@overload
def transform(program: ExportedProgram, **options: Any) -> ExportedProgram: ...


@overload
def transform(
    program: torch.nn.Module,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> GraphModule: ...


def transform(
    program: torch.nn.Module | ExportedProgram,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> GraphModule | ExportedProgram:
    """The program on merged tokens, as a graph.

    Args:
        program: a module, a ``torch.fx.GraphModule``, or an ExportedProgram.
        args, kwargs: example inputs; an ExportedProgram brings its own.
        options: as in ``Options``; the lowering says no more than the default of ``form``.

    Returns:
        For an ExportedProgram a new ExportedProgram. Else a GraphModule that shares the module's
        parameters and state-dict keys and is specialised to the train or eval mode it was made in
        and to the shapes of the example inputs.

    Raises:
        OptionsError: an option is wrong.
        RefusedError: nothing merges and ``strict=True``, or the program is transformed already.
    """
    parsed = Options.parse(options)
    if parsed.lowering not in known_lowerings():
        raise unknown_lowering(parsed.lowering)
    exported = export(program, args, kwargs)
    _refuse_twice(exported)
    result = exported if parsed.merges_nothing else _merged(exported, parsed)
    if isinstance(program, ExportedProgram):
        return result
    return TransformedModule(result.module(), result, program.training)


def export(
    program: torch.nn.Module | ExportedProgram,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
) -> ExportedProgram:
    """The program as an ExportedProgram; that of an ExportedProgram is itself."""
    if isinstance(program, ExportedProgram):
        return program
    if not isinstance(program, torch.nn.Module):
        raise TypeError(
            f"cannot transform a {type(program).__name__}: expected an nn.Module, "
            "a GraphModule or an ExportedProgram"
        )
    if args is None and not kwargs:
        raise TypeError("transform(module, args, kwargs) needs example inputs to trace a module")
    with spelled_out_layers():
        return torch.export.export(program, tuple(args or ()), dict(kwargs or {}), strict=False)


@contextmanager
def spelled_out_layers() -> Iterator[None]:
    """Trace nn.TransformerEncoderLayer op by op, not as its one fused inference op."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _refuse_twice(exported: ExportedProgram) -> None:
    if any(is_pitome_op(node.target) for node in exported.graph.nodes):
        raise RefusedError(
            "this program is transformed already: it contains pitome ops. "
            "Transform the original model, with the amount of merging you want in all."
        )


def is_pitome_op(target: Any) -> bool:
    """Is it one of the ops a rewrite inserts?"""
    return isinstance(target, torch._ops.OpOverload) and target.namespace == "pitome"


def _merged(exported: ExportedProgram, options: Options) -> ExportedProgram:
    with as_it_was(_inputs(exported)):
        outcome = pipeline.run(capture_exported(exported), options)
        if outcome.rewritten is not None:
            form = outcome.options.form
            assert form is not None
            graph = _dissolved(outcome.rewritten.graph, outcome.program.inputs, form)
            drop_layout_guards(_inputs(exported))
            return rebuilt(exported, graph)
    reason = why_nothing_merges(outcome)
    if options.strict:
        raise RefusedError(reason)
    warnings.warn(reason, PitomeWarning, stacklevel=3)
    return exported


def _inputs(exported: ExportedProgram) -> list[Any]:
    """What the placeholders stand for: fake tensors, ints and SymInts."""
    return [node.meta["val"] for node in exported.graph.find_nodes(op="placeholder")]


def _dissolved(graph: GraphModule, inputs: Sequence[Any], form: Form) -> GraphModule:
    """Only metadata of the new nodes asks about sizes, but for match functions of a user's own."""
    matches = graph.graph.find_nodes(op="call_function", target=torch.ops.pitome.match.default)
    shipped = all(is_shipped(node.args[3]) for node in matches)
    with unguarded(inputs) if shipped else nullcontext():
        return dissolve(graph, inputs, form)


def in_form(program: ExportedProgram, form: Form) -> ExportedProgram:
    """A transformed program with its pitome ops dissolved; the program itself if it has none.

    Args:
        form: as in ``Options``.
    """
    if not any(is_pitome_op(node.target) for node in program.graph.nodes):
        return program
    inputs = _inputs(program)
    with as_it_was(inputs):
        return rebuilt(program, _dissolved(program.graph_module, inputs, form))


def why_nothing_merges(outcome: Outcome) -> str:
    """One sentence on why a model runs dense."""
    sites = make_report([outcome]).blocks
    if not sites:
        return "pitome: the model runs dense: no attention was found in it."
    listed = "; ".join(
        f"{site.module or 'attention'} #{site.number}: {site.reason}" for site in sites[:4]
    )
    more = f" (and {len(sites) - 4} more)" if len(sites) > 4 else ""
    return f"pitome: the model runs dense: none of its attention may merge. {listed}{more}."


def explain(
    model: torch.nn.Module | Any,
    *args: Any,
    options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Report:
    """Run the model once through the pass and report what becomes of it.

    Args:
        model: a module or any callable that torch.compile takes; an ExportedProgram.
        args, kwargs: inputs of the model.
        options: as in ``Options``.

    Raises:
        OptionsError: an option is wrong.
        CaptureError: torch.compile captured no graph.
    """
    parsed = Options.parse(options)
    if isinstance(model, ExportedProgram):
        with as_it_was(_inputs(model)):
            return make_report([pipeline.run(capture_exported(model), parsed)])
    outcomes: list[Outcome] = []

    def record(graph: GraphModule, example_inputs: list[Any]) -> Any:
        clock = pipeline.Clock()
        try:
            with clock.stage("capture"):
                program = capture_dynamo(graph, example_inputs)
        except CaptureError:  # a graph of constants between two graph breaks
            return graph.forward
        outcome = pipeline.run(program, parsed, clock)
        outcomes.append(outcome)
        return graph.forward if outcome.rewritten is None else outcome.rewritten.graph.forward

    try:
        _compile_apart(model, record)(*args, **kwargs)
    except BackendCompilerFailed as failure:
        if isinstance(failure.inner_exception, PitomeError):
            raise failure.inner_exception from None
        raise
    if not outcomes:
        raise CaptureError(
            "torch.compile captured no graph of this model: it runs in plain Python "
            "(TORCH_LOGS='graph_breaks' says why), or it hit the recompile limit"
        )
    return make_report(outcomes)


def _compile_apart(model: Any, backend: Callable[..., Any]) -> Any:
    """Compile without using up the recompiles that the model's own compilations may need."""
    known = inspect.signature(torch.compile).parameters
    apart: dict[str, Any] = {"isolate_recompiles": True} if "isolate_recompiles" in known else {}
    return torch.compile(model, backend=backend, **apart)
