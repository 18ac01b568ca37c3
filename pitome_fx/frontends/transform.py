"""transform: the pass outside torch.compile."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, overload

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule

from pitome_fx.errors import CaptureError, OptionsError, PitomeWarning, RefusedError, in_short
from pitome_fx.frontends.transformed import TransformedModule
from pitome_fx.lowerings import known_lowerings, unknown_lowering
from pitome_fx.ops import is_pitome_op
from pitome_fx.options import Options
from pitome_fx.passes import pipeline
from pitome_fx.passes.capture.guards import tentative
from pitome_fx.passes.capture.program import Program, capture_exported
from pitome_fx.passes.dissolve.exported import inputs_of
from pitome_fx.passes.dissolve.rebuild import rebuilt, without_groups
from pitome_fx.passes.dissolve.returning_groups import user_outputs
from pitome_fx.passes.failures import failing_in
from pitome_fx.passes.pipeline import Outcome
from pitome_fx.passes.reporting import make_report
from pitome_fx.passes.rewrite.rewriting import Rewritten
from pitome_fx.report import why_nothing_merges
from pitome_fx.switch import why_off

Outputs = Literal["dense", "merged"]


@overload
def transform(
    program: ExportedProgram, *, outputs: Outputs = "dense", **options: Any
) -> ExportedProgram: ...


@overload
def transform(
    program: torch.nn.Module,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    outputs: Outputs = "dense",
    **options: Any,
) -> GraphModule: ...


def transform(
    program: torch.nn.Module | ExportedProgram,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    outputs: Outputs = "dense",
    **options: Any,
) -> GraphModule | ExportedProgram:
    """The program on merged tokens, as a graph; on all of them where merging is switched off.

    Args:
        program: a module, a ``torch.fx.GraphModule``, or an ExportedProgram.
        args, kwargs: example inputs; an ExportedProgram brings its own.
        outputs: ``"dense"``, those of the model; or ``"merged"`` for who goes on with fewer tokens:
            the result then returns ``(output, groups)``, where ``output`` is made as the model's,
            with N' groups in place of N tokens, and ``groups`` is made like it, with ``Groups``
            for what is merged and None for all else (one None for a part without any). Tokens that
            share a dimension with others, or were unmerged before, stay dense: a warning says so.
        options: as in ``Options``; the lowering says no more than the default of ``form``.

    Returns:
        For an ExportedProgram a new ExportedProgram. Else a GraphModule that shares the module's
        parameters and state-dict keys and is specialised to the train or eval mode it was made in
        and to the shapes of the example inputs.

    Raises:
        OptionsError: an option is wrong.
        RefusedError: the program is transformed already; or ``strict=True`` and nothing merges, or
            no output stays merged that should.
        CaptureError: torch.export cannot trace the model.
        PassError: a stage of the pass failed; the text says where, and what to do.
    """
    parsed = Options.parse(options)
    if outputs not in ("dense", "merged"):
        raise OptionsError(
            f"outputs={outputs!r} is not allowed: expected 'dense' (those of the model) or "
            "'merged' (with fewer tokens, and their groups)."
        )
    if parsed.lowering not in known_lowerings():
        raise unknown_lowering(parsed.lowering)
    exported = export(program, args, kwargs)
    result, outcome = merged_by_pass(exported, parsed, outputs)
    if outputs == "merged" and (outcome is None or outcome.merged is None):
        result = without_groups(exported)
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
        raise TypeError("a module is traced with example inputs: give (module, args, kwargs)")
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


def merged_by_pass(
    exported: ExportedProgram, options: Options, outputs: Outputs = "dense"
) -> tuple[ExportedProgram, Outcome | None]:
    """The program on merged tokens, and what the pass made of it; itself where nothing merges.

    The warning that it runs dense is for the caller of the front end that calls this.
    """
    _refuse_twice(exported)
    if why_off() is not None or options.merges_nothing:
        return exported, None
    taken = user_outputs(exported) if outputs == "merged" else {}

    def capture() -> Program:
        return replace(capture_exported(exported), merged_outputs=frozenset(taken))

    with tentative(inputs_of(exported)) as guards:
        outcome = pipeline.run(capture, options)
        if outcome.rewritten is not None and outcome.merged is not None:
            if outputs == "merged":
                _say_what_is_dense(taken, outcome.rewritten, options)
            with failing_in("dissolve"):
                guards.hand_on()
                groups = outcome.rewritten.merged_outputs if outputs == "merged" else None
                return rebuilt(exported, outcome.merged, groups), outcome
    with failing_in("report"):
        reason = why_nothing_merges(make_report([outcome]).blocks)
    if options.strict:
        raise RefusedError(reason)
    warnings.warn(reason, PitomeWarning, stacklevel=3)
    return exported, outcome


def _say_what_is_dense(names: Mapping[int, str], rewritten: Rewritten, options: Options) -> None:
    """Warn of outputs that were to stay merged and did not.

    Args:
        names: position of each output → how the caller gets to it.
    """
    reasons = [f"{names[i]}: {why}" for i, why in sorted(rewritten.unmerged_outputs.items())]
    if rewritten.merged_outputs and not reasons:
        return
    listed = "; ".join(reasons) or "none of them is known to hold tokens that merge"
    how = "stay dense" if rewritten.merged_outputs else "are all dense"
    text = (
        f"pitome: outputs of the model {how} (outputs='merged'): {listed}. "
        "What is to stay merged must be returned as tokens, before they are put into another shape."
    )
    if options.strict and not rewritten.merged_outputs:
        raise RefusedError(text)
    warnings.warn(text, PitomeWarning, stacklevel=4)
