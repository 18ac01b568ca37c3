"""Plan: how many tokens every block removes, in integers.

A keep ratio is a rational p/q with q = 10⁴, so that floor(T − T·ratio) is exact: for T tokens,
k = T·(q − p)//q. For a symbolic token count the plan is closed form, T_i = ⌈T_0·c_i/q⌉ with
integer c_i, because nested floors would be re-proved at every block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch.fx import Node

from pitome_fx.algorithms import ALGORITHMS
from pitome_fx.errors import OptionsError
from pitome_fx.options import MIN_RATIO, Options
from pitome_fx.passes.axes import Axis, Dim, Size
from pitome_fx.passes.capture import Program
from pitome_fx.passes.detect import Block, Detection
from pitome_fx.passes.flops import FlopCounter
from pitome_fx.passes.sites import Site

Q = 10**4
aten = torch.ops.aten


@dataclass(frozen=True)
class Amount:
    """How much one block removes: either a share (q − p)/q of its tokens, or a number.

    ``before`` and ``after`` are the c_i of the closed form that a symbolic count needs.
    """

    p: int = Q
    r: int | None = None
    before: int = Q
    after: int = Q

    def removed(self, tokens: Size, first: Size, has_padding: bool) -> Size:
        """k for ``tokens`` unprotected tokens now, of which there were ``first`` at the start."""
        if not isinstance(tokens, int):
            if self.r is not None:
                return self.r
            return -(-first * self.before // Q) + (-first * self.after // Q)
        wanted = tokens * (Q - self.p) // Q if self.r is None else self.r
        # With padding, pairs of either kind must suffice: one odd token of each may be left over.
        return min(wanted, (tokens - has_padding) // 2)


@dataclass(frozen=True)
class Merge:
    """One planned merge: block ``index`` of the ``total`` that its stream has."""

    block: Block
    index: int
    total: int
    amount: Amount
    margin: float


@dataclass(frozen=True)
class Plan:
    """What to merge.

    Attributes:
        merges: by merge point, in graph order.
        refusals: every site that does not merge, with the reason.
        ratio: the keep ratio that the FLOPs target asks for, if one was given.
        note: what the user should know about it, '' if nothing.
    """

    merges: tuple[Merge, ...]
    refusals: dict[Site, str]
    ratio: float | None = None
    note: str = ""


def make_plan(program: Program, detection: Detection, options: Options) -> Plan:
    """Decide the amount of every block.

    Args:
        options: with all defaults resolved.

    Raises:
        OptionsError: the schedule has another length than the model has mergeable blocks.
    """
    blocks, refusals = _allowed(detection, options)
    ratio: float | None = None
    note = ""
    if options.flops is not None:
        p, note = _solve(program, detection, blocks, options, options.flops)
        ratio = p / Q
        amounts = [Amount(p=p)] * len(blocks)
    else:
        amounts = _given_amounts(blocks, options)
    merges, thin = _sized(_merges(detection, blocks, amounts, options), options)
    useful, idle = _useful(program, detection, merges)
    return Plan(tuple(useful), {**detection.refusals, **refusals, **thin, **idle}, ratio, note)


def _allowed(detection: Detection, options: Options) -> tuple[list[Block], dict[Site, str]]:
    """Blocks that the options let merge; one for every merge point."""
    refusals: dict[Site, str] = {}
    blocks: list[Block] = []
    for block in first_per_point(detection.blocks):
        if options.blocks is not None and _number(block, detection) not in options.blocks:
            refusals[block.site] = "excluded by the option blocks"
        else:
            blocks.append(block)
    return blocks, refusals


def _number(block: Block, detection: Detection) -> int:
    return block.site.number


def first_per_point(blocks: Iterable[Block]) -> list[Block]:
    """Parallel attentions share one residual add, and so one merge: the first one's."""
    seen: dict[Node, Block] = {}
    for block in blocks:
        seen.setdefault(block.point, block)
    return list(seen.values())


def _given_amounts(blocks: Sequence[Block], options: Options) -> list[Amount]:
    if options.r is not None:
        return [Amount(r=options.r)] * len(blocks)
    if options.ratio is not None:
        return [Amount(p=_numerator(options.ratio))] * len(blocks)
    assert options.schedule is not None
    if len(options.schedule) != len(blocks) and blocks:
        raise OptionsError(
            f"schedule={list(options.schedule)!r} has {len(options.schedule)} values, but "
            f"{len(blocks)} blocks of this model may merge; give one value for each."
        )
    return [Amount(p=_numerator(value)) for value in options.schedule]


def _numerator(ratio: float) -> int:
    return round(Fraction(ratio) * Q)


def _merges(
    detection: Detection, blocks: Sequence[Block], amounts: Sequence[Amount], options: Options
) -> list[Merge]:
    """Number the blocks of each stream and give each its margin."""
    algorithm = ALGORITHMS[options.algorithm]
    streams: dict[Axis, list[Block]] = {}
    for block in first_per_point(detection.blocks):
        streams.setdefault(block.axis, []).append(block)
    left: dict[Axis, int] = {}
    merges = []
    assert options.margin is not None
    for block, amount in zip(blocks, amounts, strict=True):
        stream = streams[block.axis]
        index = stream.index(block)
        before = left.get(block.axis, Q)
        after = before if amount.r is not None else -(-before * amount.p // Q)
        left[block.axis] = after
        margin = algorithm.margin_at(options.margin, index, len(stream))
        exact = replace(amount, before=before, after=after)
        merges.append(Merge(block, index, len(stream), exact, margin))
    return merges


def _sized(merges: list[Merge], options: Options) -> tuple[list[Merge], dict[Site, str]]:
    """Drop merges of too few tokens."""
    refusals: dict[Site, str] = {}
    kept = []
    for merge, before, after in token_counts(merges, options.min_tokens):
        if isinstance(before, int) and before < options.min_tokens:
            refusals[merge.block.site] = (
                f"too few tokens: {before}, and min_tokens is {options.min_tokens}"
            )
        elif isinstance(before, int) and before == after:
            refusals[merge.block.site] = (
                f"too few tokens: the amount asked for removes none of {before}"
            )
        else:
            kept.append(merge)
    return kept, refusals


def token_counts(merges: Iterable[Merge], min_tokens: int) -> list[tuple[Merge, Size, Size]]:
    """Token counts before and after each merge."""
    now: dict[Axis, Size] = {}
    result = []
    for merge in merges:
        block = merge.block
        before = now.get(block.axis, block.axis.size)
        protected = block.front + block.back
        k = merge.amount.removed(
            before - protected, block.axis.size - protected, block.padding is not None
        )
        if isinstance(before, int) and (before < min_tokens or before - protected < 2):
            k = 0
        now[block.axis] = before - k
        result.append((merge, before, now[block.axis]))
    return result


def _useful(
    program: Program, detection: Detection, merges: list[Merge]
) -> tuple[list[Merge], dict[Site, str]]:
    """Drop merges after which no matrix product runs on the merged tokens."""
    model = CostModel(program, detection, [merge.block for merge in merges])
    refusals: dict[Site, str] = {}
    kept = []
    for i, merge in enumerate(merges):
        if model.runs_after(i):
            kept.append(merge)
        else:
            refusals[merge.block.site] = (
                "not profitable: every costly op after this block needs all tokens again"
            )
    return kept, refusals


class CostModel:
    """FLOPs of the program as a function of the token counts after each merge.

    A product whose operands hold e token dimensions costs (n/N)^e of its dense FLOPs on n of N
    tokens; which n, the merge points upstream of it say.
    """

    def __init__(self, program: Program, detection: Detection, blocks: Sequence[Block]) -> None:
        self.blocks = list(blocks)
        self.counter = FlopCounter()
        self.dense = 0
        self.terms: dict[tuple[int, int], int] = {}
        level = _levels(program, self.blocks)
        for node in program.graph.graph.nodes:
            flops = self.counter.of(node)
            self.dense += flops
            merge = level.get(node, -1)
            exponent = 0
            if flops and merge >= 0:
                exponent = _exponent(node, detection, self.blocks[merge])
            if exponent:
                self.terms[merge, exponent] = self.terms.get((merge, exponent), 0) + flops

    def runs_after(self, merge: int) -> bool:
        """Does any product run on the tokens of this merge or of a later one?"""
        axis = self.blocks[merge].axis
        return any(self.blocks[at].axis is axis and at >= merge for at, _ in self.terms)

    def fraction(self, counts: Sequence[tuple[Merge, Size, Size]], overhead: float) -> float:
        """FLOPs left, as a fraction of the dense program's.

        Args:
            counts: token counts before and after each merge.
            overhead: FLOPs of matching and merging all N tokens; it falls with n².
        """
        total = float(self.dense)
        for (at, exponent), flops in self.terms.items():
            share = _number_of(counts[at][2]) / _number_of(self.blocks[at].axis.size)
            total -= flops * (1 - share**exponent)
        for merge, before, _ in counts:
            total += overhead * (_number_of(before) / _number_of(merge.block.axis.size)) ** 2
        return total / self.dense if self.dense else 1.0


def _levels(program: Program, blocks: Sequence[Block]) -> dict[Node, int]:
    """The last merge upstream of every node."""
    at_point = {block.point: i for i, block in enumerate(blocks)}
    level: dict[Node, int] = {}
    for node in program.graph.graph.nodes:
        # A merge point itself still runs on the tokens before.
        upstream = [
            max(level[source], at_point.get(source, -1)) for source in node.all_input_nodes
        ]
        level[node] = max(upstream, default=-1)
    return level


def _exponent(node: Node, detection: Detection, block: Block) -> int:
    """How many of the dimensions a product runs over are the block's token axis."""
    axes = {atom.axis for dim in _token_dims(detection, block) for atom in dim[:1]}
    tensors = [detection.labels.dims[n] for n in node.all_input_nodes]
    if node.target == aten.scaled_dot_product_attention.default:
        return sum(_holds(dims, axes) for dims in tensors[:2])
    total = sum(_holds(dims, axes) for dims in (*tensors, detection.labels.dims[node]))
    return (total + 1) // 2


def _token_dims(detection: Detection, block: Block) -> list[Dim]:
    return [block.site.query_dim]


def _holds(dims: Any, axes: set[Axis]) -> int:
    if not isinstance(dims, tuple):
        return 0
    return sum(
        any(atom.axis in axes or atom.axis.base in axes for atom in dim) for dim in dims
    )


def _solve(
    program: Program,
    detection: Detection,
    blocks: Sequence[Block],
    options: Options,
    target: float,
) -> tuple[int, str]:
    """The ratio numerator p whose FLOPs come closest to the target from below."""
    if not blocks:
        return Q, ""
    model = CostModel(program, detection, blocks)

    def fraction(p: int) -> float:
        amounts = [Amount(p=p)] * len(blocks)
        merges = _merges(detection, blocks, amounts, options)
        overhead = _overhead(model.counter, detection, blocks[0], p)
        return model.fraction(token_counts(merges, options.min_tokens), overhead)

    low, high = round(MIN_RATIO * Q), Q
    if fraction(low) > target:
        return low, (
            f"flops={target} is out of reach: even a keep ratio of {MIN_RATIO} in every block "
            f"leaves {fraction(low):.3f} of the FLOPs"
        )
    while high - low > 1:
        middle = (low + high) // 2
        if fraction(middle) <= target:
            low = middle
        else:
            high = middle
    return low, ""


def _overhead(counter: FlopCounter, detection: Detection, block: Block, p: int) -> float:
    """FLOPs of matching and merging once, on all tokens of the stream."""
    keys = block.site.keys.meta["val"]
    point = block.point.meta["val"]
    tokens = _number_of(block.axis.size)
    removed = (tokens - block.front - block.back) * (Q - p) // Q
    groups = tokens - removed
    features = keys.shape[block.site.feature_place]
    batch = 1
    for axis in block.batch:
        batch *= _number_of(axis.size)
    width = point.numel() // (tokens * batch) if isinstance(point.numel(), int) else 0
    products = tokens**2 * features + removed**2 * features + groups * removed * width
    return 2.0 * batch * products


def _number_of(size: Size) -> int:
    return size if isinstance(size, int) else int(size.node.hint)


