"""Rewrite: replay the graph, merge at the planned points, let the token rules do the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pitome_fx.ops import emit
from pitome_fx.options import Options
from pitome_fx.passes.align import with_batch, with_dim
from pitome_fx.passes.axes import Atom, Size, TokenTensor, is_merged, length
from pitome_fx.passes.capture import Program, trace
from pitome_fx.passes.detect import Block, Detection
from pitome_fx.passes.masks import MaskUse, is_masking
from pitome_fx.passes.moves import rows_of
from pitome_fx.passes.plan import Merge, Plan
from pitome_fx.passes.replay import LiftEvent, ProjectEvent, Replay, UnweightedEvent
from pitome_fx.passes.spaces import TokenSpace, merged_space

aten = torch.ops.aten


@dataclass(frozen=True)
class Merged:
    """A merge that took place: its plan, token counts around it, and the state it led to."""

    plan: Merge
    before: Size
    after: Size
    space: TokenSpace
    has_padding: bool


@dataclass(frozen=True)
class Rewritten:
    """The rewritten graph, and what the rewrite had to do."""

    graph: GraphModule
    merges: tuple[Merged, ...]
    skipped: dict[Block, str]
    lifts: tuple[LiftEvent, ...]
    projections: tuple[ProjectEvent, ...]
    unweighted: tuple[UnweightedEvent, ...]


def rewrite(program: Program, detection: Detection, plan: Plan, options: Options) -> Rewritten:
    """The program on merged tokens, with the inputs and outputs of the dense one.

    Args:
        options: with all defaults resolved.
    """
    merger = Merger(plan, options)
    replay = Replay(
        program.graph,
        detection.constant,
        detection.masks,
        detection.labels,
        after=merger,
        biases=frozenset(
            (mask.consumer, mask.node)
            for site in detection.sites
            for mask in site.masks
            if mask.use is MaskUse.KEEPS
        ),
        proportional=options.proportional,
    )
    graph = trace(replay.run, program.inputs, program.fake_mode)
    _restore_placeholders(program.graph, graph)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()
    return Rewritten(
        graph,
        tuple(merger.merged),
        merger.skipped,
        tuple(replay.lifts),
        tuple(replay.projections),
        tuple(replay.unweighted),
    )


def _restore_placeholders(source: GraphModule, graph: GraphModule) -> None:
    """Inputs keep the names and the metadata that later stages know them by."""
    old = source.graph.find_nodes(op="placeholder")
    new = graph.graph.find_nodes(op="placeholder")
    for before, after in zip(old, new, strict=True):
        after.meta.update({key: v for key, v in before.meta.items() if key not in after.meta})


class Merger:
    """Merges the value of every planned node as it is replayed."""

    def __init__(self, plan: Plan, options: Options) -> None:
        self.plan = {merge.block.point: merge for merge in plan.merges}
        self.options = options
        self.merged: list[Merged] = []
        self.skipped: dict[Block, str] = {}

    def __call__(self, replay: Replay, node: Node, value: Any) -> Any:
        merge = self.plan.get(node)
        if merge is None:
            return value
        assert isinstance(value, TokenTensor)
        return self._merge(replay, merge, value)

    def _merge(self, replay: Replay, merge: Merge, x: TokenTensor) -> TokenTensor:
        block = merge.block
        parent = x.dims[block.token_place][0].space
        keys = replay.env[block.site.keys]
        if not _in_state(keys.dims[block.site.token_place], parent):
            self.skipped[block] = "its keys and its residual stream are merged differently"
            return x
        if any(space is not parent for space in (*x.spaces(), *keys.spaces())):
            self.skipped[block] = "another axis of these tokens is merged, each item on its own"
            return x
        before = length(x.dims[block.token_place])
        # Tokens that an earlier state let merge have no place to be protected at.
        front = block.front if parent is None else min(block.front, parent.front)
        back = block.back if parent is None else min(block.back, parent.back)
        protected = front + back
        padding = self._padding(replay, block, parent, keys)
        k = merge.amount.removed(
            before - protected, block.axis.size - protected, padding is not None
        )
        if isinstance(k, int) and k <= 0:
            self.skipped[block] = f"too few tokens: the amount asked for removes none of {before}"
            return x
        place = (block.token_place, 0)
        if parent is None:
            dense = (Atom(block.axis),)
            x = with_dim(x, block.token_place, dense)
            keys = with_dim(keys, block.site.token_place, dense)
        rows = rows_of(x, place, block.batch)
        metric = rows.data if self.options.metric == "hidden" else _mean_keys(keys, block)
        size = _ones(metric) if parent is None else parent.size
        step = emit(
            "match",
            metric,
            size,
            padding,
            self.options.algorithm,
            k,
            front,
            back,
            merge.margin,
            self.options.alpha,
        )
        space = merged_space(
            block.axis,
            block.batch,
            parent,
            step,
            size,
            front,
            back,
            _kept_apart(replay, block, parent, padding),
            len(self.merged),
        )
        self.merged.append(Merged(merge, before, space.count, space, padding is not None))
        merged = rows.restore(emit("merge", rows.data, size, *step), Atom(block.axis, space))
        return TokenTensor(merged.data, merged.dims, tainted=True)

    def _padding(
        self, replay: Replay, block: Block, parent: TokenSpace | None, keys: TokenTensor
    ) -> Tensor | None:
        """Which present tokens are padding, (B, N) bool; None if no mask says so."""
        if block.padding is None:
            return None
        number = replay.masks.dataflow.number(block.padding.node)
        if parent is not None and number not in parent.padding:
            return None
        mask = replay.env[block.padding.node]
        fills = block.padding.use is MaskUse.FILLS
        hidden = mask.data if fills else is_masking(mask.data)
        rows = _padding_rows(TokenTensor(hidden, mask.dims), keys, block)
        return rows if parent is None else rows.gather(1, parent.representative)


def _in_state(dim: Any, space: TokenSpace | None) -> bool:
    if space is None:
        return not is_merged(dim)
    return len(dim) == 1 and dim[0].space is space


def _kept_apart(
    replay: Replay, block: Block, parent: TokenSpace | None, padding: Tensor | None
) -> frozenset[int]:
    if padding is None or block.padding is None:
        return frozenset()
    return frozenset({replay.masks.dataflow.number(block.padding.node)})


def _padding_rows(mask: TokenTensor, keys: TokenTensor, block: Block) -> Tensor:
    """A mask (…, Q, N), the same for every query and head, as (B, N)."""
    tokens = (Atom(block.axis),)
    lead = [dim for d, dim in enumerate(keys.dims) if d != block.site.token_place]
    lead = [dim for d, dim in enumerate(lead) if d != len(lead) - 1]
    data = mask.data
    dims = list(mask.dims)
    if len(dims) > 1:
        data = data.narrow(-2, 0, 1)
        dims[-2] = ()
    named = TokenTensor(data, (*dims[:-1], tokens))
    target = (*lead, (), tokens)
    batched = with_batch(named, target, [-1], 0)
    rows = rows_of(
        TokenTensor(batched.data, (*batched.dims[:-1], tokens)),
        (len(batched.dims) - 1, 0),
        block.batch,
    )
    return rows.data[..., 0]


def _mean_keys(keys: TokenTensor, block: Block) -> Tensor:
    """Keys averaged over heads, (B, N, D), in at least float32."""
    place = (block.site.token_place, 0)
    features = keys.dims[block.site.feature_place]
    wide = torch.promote_types(keys.data.dtype, torch.float32)
    atoms = [atom for dim in keys.dims for atom in dim]
    token = next(i for i, atom in enumerate(atoms) if atom == keys.dims[place[0]][0])
    lead = [next(i for i, a in enumerate(atoms) if a.axis is axis) for axis in block.batch]
    tail = [i for i, atom in enumerate(atoms) if any(atom == f for f in features)]
    heads = [i for i in range(len(atoms)) if i not in (token, *lead, *tail)]
    split = keys.data
    sizes = [atom.length for atom in atoms]
    if list(split.shape) != sizes:
        split = split.reshape(sizes)
    if heads:
        split = split.mean(heads, dtype=wide)
    order = [i for i in range(len(atoms)) if i not in heads]
    wanted = [*lead, token, *tail]
    if order != wanted:
        split = split.permute([order.index(i) for i in wanted])
    batch: Size = 1
    for axis in block.batch:
        batch = batch * axis.size
    width: Size = 1
    for i in tail:
        width = width * atoms[i].length
    return split.reshape([batch, atoms[token].length, width])


def _ones(metric: Tensor) -> Tensor:
    wide = torch.promote_types(metric.dtype, torch.float32)
    return metric.new_ones(metric.shape[:2], dtype=wide)
