"""transform: the pass outside torch.compile."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, overload

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule

from pitome_fx.errors import CaptureError, PitomeWarning, RefusedError, in_short
from pitome_fx.frontends.transformed import TransformedModule
from pitome_fx.lowerings import known_lowerings, unknown_lowering
from pitome_fx.ops import is_pitome_op
from pitome_fx.options import Options
from pitome_fx.passes import pipeline
from pitome_fx.passes.capture.guards import tentative
from pitome_fx.passes.capture.program import capture_exported
from pitome_fx.passes.dissolve.exported import inputs_of
from pitome_fx.passes.dissolve.rebuild import rebuilt
from pitome_fx.passes.failures import failing_in
from pitome_fx.passes.reporting import make_report
from pitome_fx.report import why_nothing_merges
from pitome_fx.switch import why_off


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
    """The program on merged tokens, as a graph; on all of them where merging is switched off.

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
        CaptureError: torch.export cannot trace the model.
        PassError: a stage of the pass failed; the text says where, and what to do.
    """
    parsed = Options.parse(options)
    if parsed.lowering not in known_lowerings():
        raise unknown_lowering(parsed.lowering)
    exported = export(program, args, kwargs)
    _refuse_twice(exported)
    dense = why_off() is not None or parsed.merges_nothing
    result = exported if dense else _merged(exported, parsed)
    if isinstance(program, ExportedProgram):
        return result
    return TransformedModule(result.module(), result, program.training)


def export(
    program: torch.nn.Module | ExportedProgram,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
) -> ExportedProgram:
    """The program as an ExportedProgram; that of an ExportedProgram is itself.

    Raises:
        CaptureError: torch.export cannot trace the model.
    """
    if isinstance(program, ExportedProgram):
        return program
    if not isinstance(program, torch.nn.Module):
        raise TypeError(
            f"cannot transform a {type(program).__name__}: expected an nn.Module, "
            "a GraphModule or an ExportedProgram"
        )
    if args is None and not kwargs:
        raise TypeError("transform(module, args, kwargs) needs example inputs to trace a module")
    try:
        with spelled_out_layers():
            return torch.export.export(program, tuple(args or ()), dict(kwargs or {}), strict=False)
    except Exception as error:
        raise CaptureError(
            f"torch.export cannot trace this model ({in_short(error)}): use torch.compile(model, "
            "backend='pitome'), which leaves to Python what it cannot trace, or transform an "
            "ExportedProgram of yours (torch.export.export(model, args, strict=True) traces "
            "in another way)"
        ) from error


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


def _merged(exported: ExportedProgram, options: Options) -> ExportedProgram:
    with tentative(inputs_of(exported)) as guards:
        outcome = pipeline.run(lambda: capture_exported(exported), options)
        if outcome.merged is not None:
            with failing_in("dissolve"):
                guards.hand_on()
                return rebuilt(exported, outcome.merged)
    with failing_in("report"):
        reason = why_nothing_merges(make_report([outcome]).blocks)
    if options.strict:
        raise RefusedError(reason)
    warnings.warn(reason, PitomeWarning, stacklevel=3)
    return exported
