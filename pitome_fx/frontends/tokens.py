"""tokens: who merges with whom in one run of a model, as plain tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export._tree_utils import reorder_kwargs

from pitome_fx.frontends.grid import Grid, grid_of
from pitome_fx.frontends.transform import export, merged_by_pass
from pitome_fx.frontends.watching import Decision, Watcher
from pitome_fx.groups import sizes
from pitome_fx.matching import scores
from pitome_fx.options import Options
from pitome_fx.passes.rewrite.rewriting import Merge


@dataclass(frozen=True, eq=False)
class MergedTokens:
    """What one merge of a run did. B: items that merge on their own, M: original tokens.

    Items are those of the batch; where tokens merge frame by frame or window by window, there are
    as many for each. Original tokens are those that the stream began with.

    Attributes:
        number: position among the attention sites, as the option ``blocks`` counts them.
        module: path of the module that attends.
        stream: number of the stream: tokens that were unmerged, or made anew, begin another.
        tokens_before, tokens_after: N and N', the tokens of the stream around the merge.
        before: (B, M) int64, the group of each original token that the merge found, in [0, N).
        assignment: (B, M) int64, its group after the merge, in [0, N').
        sizes: (B, N') int64, how many original tokens are in each group.
        scores: (B, N) what the algorithm ranked the tokens by that it found, NaN for those that it
            does not rank (protected, padding): with PiToMe the energy, of which the highest merge;
            with EViT and its kin the importance, of which the highest stay (docs/algorithms.md).
            None where it ranks none, as ToMe.
        front, back: how many tokens at either end are protected.
        grid: how the original tokens lie on the image (sequence); None where it is not known.
    """

    number: int
    module: str
    stream: int
    tokens_before: int
    tokens_after: int
    before: Tensor
    assignment: Tensor
    sizes: Tensor
    scores: Tensor | None
    front: int
    back: int
    grid: Grid | None


def tokens(
    model: nn.Module | ExportedProgram,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> list[MergedTokens]:
    """Run the model once on merged tokens and see which of them merged.

    Args:
        model: a module or an ExportedProgram.
        args, kwargs: inputs of the model, as for ``transform``; those that an ExportedProgram was
            exported with, if none are given.
        options: as in ``Options``, but for the form.

    Returns:
        What each merge did, in the order in which they run; nothing where nothing merges, with a
        warning that says why.

    Raises:
        OptionsError: an option is wrong.
        RefusedError: nothing merges and ``strict=True``, or the program is transformed already.
        CaptureError: torch.export cannot trace the model.
        TypeError, ValueError: there are no inputs, or other ones than the program takes.
        PassError: a stage of the pass failed; the text says where, and what to do.
    """
    parsed = replace(Options.parse(options), form="pitome")
    exported = export(model, args, kwargs)
    inputs = _inputs(exported, args, kwargs)
    merged, outcome = merged_by_pass(exported, parsed)
    if outcome is None or outcome.rewritten is None:
        return []
    merges = iter(outcome.rewritten.merges)
    watcher = Watcher(merged.module(), lambda decision: _merged_tokens(next(merges), decision))
    with torch.no_grad():
        watcher.call_with(*inputs)
    return watcher.seen


def _inputs(
    program: ExportedProgram, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call in the order of the program's inputs; its own if none are given."""
    if args is None and not kwargs:
        if program.example_inputs is None:
            raise TypeError("this ExportedProgram was saved without its inputs: give args, kwargs")
        args, kwargs = program.example_inputs
    spec = program.call_spec.in_spec
    assert spec is not None
    given = tuple(args or ()), reorder_kwargs(dict(kwargs or {}), spec)
    if pytree.tree_structure(given) != spec:
        raise TypeError(
            "the inputs are not built as those that the program was exported with: expected "
            f"{spec}, got {pytree.tree_structure(given)}"
        )
    return given


def _merged_tokens(merge: Merge, decision: Decision) -> MergedTokens:
    site, deciding = merge.planned.block.site, decision.deciding
    found = grid_of(tuple(atom.axis for atom in site.query_dim))
    before = decision.step.shape[1]
    return MergedTokens(
        number=site.number,
        module=site.module,
        stream=decision.stream,
        tokens_before=before,
        tokens_after=before - deciding.k,
        before=decision.before,
        assignment=decision.after,
        sizes=sizes(decision.after),
        scores=scores(deciding),
        front=deciding.front,
        back=deciding.back,
        grid=found,
    )
