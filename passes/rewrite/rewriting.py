"""Rewrite: replay the graph, merge at the planned points, let the token rules do the rest."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.fx import GraphModule, Node

from pitome_fx.algorithms import ALGORITHMS
from pitome_fx.ops import emit
from pitome_fx.options import Options
from pitome_fx.passes.aten.families import COSTLY
from pitome_fx.passes.capture.program import Program, restore_placeholders, trace
from pitome_fx.passes.capture.subclasses import restore_calls
from pitome_fx.passes.detect.detection import Block, Detection
from pitome_fx.passes.detect.mask import Mask
from pitome_fx.passes.detect.sites import Site
from pitome_fx.passes.plan.cost import merge_overhead
from pitome_fx.passes.plan.flops import Described, FlopCounter
from pitome_fx.passes.plan.planning import Plan, PlannedMerge
from pitome_fx.passes.plan.rounding import Rounding
from pitome_fx.passes.replay.events import LiftEvent, ProjectEvent, UnweightedEvent
from pitome_fx.passes.replay.interpreter import Replay
from pitome_fx.passes.replay.outputs import dense_outputs
from pitome_fx.passes.rewrite.merged_outputs import MergedOutput, MergedOutputs
from pitome_fx.passes.rewrite.metric import (
    State,
    asked_for,
    kept_apart,
    mean_keys,
    padding_masks,
    present_padding,
)
from pitome_fx.passes.rewrite.unmerged_outputs import unmerged_on_the_way
from pitome_fx.passes.tokens.dims import Atom, TokenTensor, is_merged
from pitome_fx.passes.tokens.moves import rows_of
from pitome_fx.passes.tokens.rule import Lift
from pitome_fx.passes.tokens.sizes import Size, hint
from pitome_fx.passes.tokens.spaces import MergedSpace, TokenSpace, merged_space
from pitome_fx.passes.tokens.tracked import equate


@dataclass(frozen=True)
class Merge:
    """A merge that took place.

    Attributes:
        before, after: numbers of tokens.
        space: the state it led to.
        padding: the masks that told padding from other tokens.
    """

    planned: PlannedMerge
    before: Size
    after: Size
    space: MergedSpace
    padding: tuple[Mask, ...]


@dataclass(frozen=True)
class Rewritten:
    """The rewritten graph, and what the rewrite had to do.

    Attributes:
        skipped: sites that could not merge as planned, with the reason.
        unprofitable: merges undone by lifts so soon that they cost more FLOPs than they save.
        merged_outputs: outputs that stay merged, whose groups are returned as well.
        unmerged_outputs: positions of outputs that were to stay merged, and why they did not.
    """

    graph: GraphModule
    merges: tuple[Merge, ...]
    skipped: dict[Site, str]
    unprofitable: tuple[PlannedMerge, ...]
    lifts: tuple[LiftEvent, ...]
    projections: tuple[ProjectEvent, ...]
    unweighted: tuple[UnweightedEvent, ...]
    merged_outputs: tuple[MergedOutput, ...]
    unmerged_outputs: dict[int, str]


def rewrite(program: Program, detection: Detection, plan: Plan, options: Options) -> Rewritten:
    """The program on merged tokens, with the inputs of the dense one and its outputs, dense but
    for those that whoever runs it takes merged.

    Args:
        options: with all defaults resolved.
    """
    treatments = detection.treatments
    if not options.proportional:
        treatments = replace(treatments, uncounted=_softmaxes(detection))
    while True:
        merger, outputs = Merger(plan, options), MergedOutputs(program.merged_outputs)
        replay = Replay(
            program.graph,
            detection.constant,
            detection.labels,
            after=merger,
            treatments=treatments,
            watch=merger.count,
            outputs=outputs if program.merged_outputs else dense_outputs,
        )
        graph = trace(replay.run, program.inputs, program.fake_mode)
        left = treatments.unspoiled({event.operand for event in replay.lifts})
        if left is treatments:
            break
        treatments = left
    restore_placeholders(program.graph, graph)
    graph.graph.eliminate_dead_code()
    restore_calls(graph)
    graph.graph.lint()
    graph.recompile()
    return Rewritten(
        graph,
        tuple(merger.done),
        merger.skipped,
        merger.unprofitable(replay.undone),
        tuple(replay.lifts),
        tuple(replay.projections),
        tuple(replay.unweighted),
        tuple(outputs.merged),
        outputs.refused | unmerged_on_the_way(replay, program.merged_outputs, merger.spaces),
    )


def _softmaxes(detection: Detection) -> frozenset[Node]:
    """Those of the attention that is understood."""
    sites = (site for site in detection.sites if not site.oddity)
    return frozenset(node for site in sites for node in site.softmaxes)


class Merger:
    """Merges the value of every planned node as it is replayed."""

    def __init__(self, plan: Plan, options: Options) -> None:
        self.planned = {merge.block.point: merge for merge in plan.merges}
        self.options = options
        self.algorithm = ALGORITHMS[options.algorithm]
        self.parameters = json.dumps(dict(options.algorithm_options))
        self.rounding = Rounding(options.round_to)
        self.done: list[Merge] = []
        self.skipped: dict[Site, str] = {}
        self.counter = FlopCounter()
        self.calls: list[tuple[Any, Described, set[int]]] = []

    @property
    def spaces(self) -> list[MergedSpace]:
        """What the merges led to."""
        return [merge.space for merge in self.done]

    def __call__(self, replay: Replay, node: Node, value: Any) -> Any:
        merge = self.planned.get(node)
        if merge is None:
            return value
        assert isinstance(value, TokenTensor)
        try:
            return self._merge(replay, merge, value)
        except Lift as refusal:
            self.skipped[merge.block.site] = str(refusal)
            return value

    def count(self, op: Any, args: Any, kwargs: Any) -> None:
        """Note an op that runs on tokens of merges, to be counted if one of these is doubtful."""
        if op not in COSTLY:
            return
        operands = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, TokenTensor)]
        merges = {i for x in operands for space in x.spaces() for i in space.merges()}
        if not merges:
            return
        args, kwargs = pytree.tree_map_only(TokenTensor, lambda x: x.data, (args, kwargs))
        self.calls.append((op, self.counter.described(args, kwargs), merges))

    def unprofitable(self, undone: set[int]) -> tuple[PlannedMerge, ...]:
        """Of the merges that lifts undo, those without which the graph would take fewer FLOPs."""
        return tuple(self.done[i].planned for i in sorted(undone) if self._profit(i) <= 0)

    def _profit(self, i: int) -> float:
        """FLOPs that its tokens save, less those of matching and merging."""
        merge = self.done[i]
        before, after = hint(merge.before), hint(merge.after)
        saved = self._flops_on(i) * (before / after - 1)
        share = before / hint(merge.planned.block.axis.size)
        return saved - merge_overhead(merge.planned.block, after / before, self.options) * share**2

    def _flops_on(self, i: int) -> int:
        """What runs on its tokens."""
        calls = ((op, operands) for op, operands, merges in self.calls if i in merges)
        return sum(self.counter.called(op, operands) for op, operands in calls)

    def _merge(self, replay: Replay, merge: PlannedMerge, x: TokenTensor) -> TokenTensor:
        block = merge.block
        keys = replay.env[block.site.keys]
        parent = x.dims[block.token_place][0].space
        before = x.data.shape[block.token_place]
        if parent is None:
            equate(block.axis.size, before)
        reason = _why_not(x, keys, block, parent)
        if reason is not None:
            self.skipped[block.site] = reason
            return x
        # What an earlier merge did not protect may be in a group by now.
        front = block.front if parent is None else min(block.front, parent.front)
        back = block.back if parent is None else min(block.back, parent.back)
        masks = padding_masks(replay, block)
        padding = present_padding(replay, block, masks, parent)
        planned, left = merge.counts(block.axis.size if parent is None else parent.first_count)
        k = self.rounding.removed(merge, before, planned - left)
        if isinstance(k, int) and k <= 0:
            self.skipped[block.site] = self.rounding.why_none(before)
            return x
        if parent is None:
            x = x.named(block.token_place, (Atom(block.axis),))
            keys = keys.named(block.site.token_place, (Atom(block.axis),))
        rows = rows_of(x, (block.token_place, 0), block.batch)
        metric = rows.data if self.options.metric == "hidden" else mean_keys(keys, block)
        size = _ones(metric) if parent is None else parent.size
        asked = asked_for(
            replay,
            block,
            self.algorithm.needs,
            State(rows.data, keys, size, padding, front, parent),
        )
        if isinstance(asked, str):
            self.skipped[block.site] = asked
            return x
        how = (self.algorithm.name, k, front, back, merge.index, merge.total, self.parameters)
        deciding = (metric, size, padding, *how, *asked)
        match = emit("match", *deciding)
        space = merged_space(
            axis=block.axis,
            batch=block.batch,
            parent=parent,
            match=match,
            size=size,
            front=front,
            back=back,
            kinds=kept_apart(replay, masks, parent),
            index=len(self.done),
        )
        self.done.append(Merge(merge, before, space.count, space, masks))
        if self.algorithm.weights is None:
            merged = emit("merge", rows.data, size, *match)
        else:
            weights = emit("weigh", *match, *deciding)
            merged = emit("combine", rows.data, *match[:2], *weights)
        return replace(rows.restore(merged, Atom(block.axis, space)), tainted=True)


def _why_not(
    x: TokenTensor, keys: TokenTensor, block: Block, parent: TokenSpace | None
) -> str | None:
    """Why a planned merge cannot take place after all, None if it can."""
    tokens = x.dims[block.token_place]
    if len(tokens) > 1 and is_merged(tokens):
        return (
            "its tokens are those of several items together (frames, views or windows), and "
            "earlier blocks merged them in each item by itself"
        )
    if not _in_state(keys.dims[block.site.token_place], parent):
        return "its keys and its residual stream are merged differently"
    if any(space is not parent for space in (*x.spaces(), *keys.spaces())):
        return "another axis of these tokens is merged, each item on its own"
    return None


def _in_state(dim: Any, space: TokenSpace | None) -> bool:
    if space is None:
        return not is_merged(dim)
    return len(dim) == 1 and dim[0].space is space


def _ones(metric: Tensor) -> Tensor:
    wide = torch.promote_types(metric.dtype, torch.float32)
    return metric.new_ones(metric.shape[:2], dtype=wide)
