"""Plan: how many tokens every block removes, in integers.

A keep ratio is a rational p/q with q = 10⁴, so that floor(T − T·ratio) is exact: for T tokens,
k = T·(q − p)//q. For a symbolic token count the plan is closed form, T_i = ⌈T_0·c_i/q⌉ with
integer c_i, because nested floors would have to be proved anew at every block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from torch.fx import Node

from pitome_fx.algorithms import ALGORITHMS
from pitome_fx.errors import OptionsError
from pitome_fx.options import MIN_RATIO, Options
from pitome_fx.passes.axes import Axis, Size
from pitome_fx.passes.capture import Program
from pitome_fx.passes.cost import CostModel, merge_overhead
from pitome_fx.passes.detect import Block, Detection
from pitome_fx.passes.sites import Site

Q = 10**4


@dataclass(frozen=True)
class Amount:
    """How much one block removes: a share (q − p)/q of its tokens, or a number r.

    ``before`` and ``after`` are the c_i of the closed form that a symbolic count needs.
    """

    p: int = Q
    r: int | None = None
    before: int = Q
    after: int = Q

    def removed(self, tokens: Size, first: Size, has_padding: bool) -> Size:
        """k for ``tokens`` unprotected tokens now, of which there were ``first`` at the start."""
        if not isinstance(tokens, int):
            return self.removed_symbolic(first)
        wanted = tokens * (Q - self.p) // Q if self.r is None else self.r
        # With padding, pairs of either kind must suffice: one odd token of each may be left over.
        return min(wanted, (tokens - has_padding) // 2)

    def removed_symbolic(self, first: Size) -> Size:
        """k in closed form, as a symbolic count needs it: T_(i−1) − T_i."""
        if self.r is not None:
            return self.r
        return _ceil(first, self.before) - _ceil(first, self.after)


def _ceil(tokens: Size, part: int) -> Size:
    """⌈tokens · part / q⌉ without a negative operand: engines divide integers towards zero."""
    exact = Fraction(part, Q)
    return (tokens * exact.numerator + exact.denominator - 1) // exact.denominator


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
        note: what the user should know about it, '' if nothing.
    """

    merges: tuple[Merge, ...]
    refusals: dict[Site, str]
    note: str = ""

    def without(self, merges: Iterable[Merge], reason: str) -> Plan:
        """The plan with some merges refused."""
        dropped = set(merges)
        refusals = {merge.block.site: reason for merge in dropped}
        kept = tuple(merge for merge in self.merges if merge not in dropped)
        return replace(self, merges=kept, refusals={**self.refusals, **refusals})


def make_plan(program: Program, detection: Detection, options: Options) -> Plan:
    """Decide the amount of every block.

    Args:
        options: with all defaults resolved.

    Raises:
        OptionsError: the schedule has another length than the model has mergeable blocks.
    """
    blocks, refusals = _allowed(detection, options)
    model = CostModel(program, detection.labels, blocks)
    note = ""
    if options.flops is not None:
        p, note = _solve(model, detection, options, options.flops)
        amounts = [Amount(p=p)] * len(blocks)
    else:
        amounts = _given_amounts(blocks, options)
    merges = []
    for i, merge in enumerate(_numbered(detection, blocks, amounts, options)):
        if model.runs_after(i):
            merges.append(merge)
        else:
            refusals[merge.block.site] = (
                "not profitable: every costly op after this block needs all tokens again"
            )
    kept, thin = _thick_enough(merges, options)
    return Plan(tuple(kept), {**detection.refusals, **refusals, **thin}, note)


def _allowed(detection: Detection, options: Options) -> tuple[list[Block], dict[Site, str]]:
    """Blocks that the options let merge; one for every merge point."""
    refusals: dict[Site, str] = {}
    blocks: list[Block] = []
    for block in first_per_point(detection.blocks):
        if options.blocks is not None and block.site.number not in options.blocks:
            refusals[block.site] = "excluded by the option blocks"
        else:
            blocks.append(block)
    return blocks, refusals


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
    if blocks and len(options.schedule) != len(blocks):
        raise OptionsError(
            f"schedule={list(options.schedule)!r} has {len(options.schedule)} values, but "
            f"{len(blocks)} blocks of this model may merge; give one value for each."
        )
    return [Amount(p=_numerator(value)) for value in options.schedule[: len(blocks)]]


def _numerator(ratio: float) -> int:
    return round(Fraction(ratio) * Q)


def _numbered(
    detection: Detection, blocks: Sequence[Block], amounts: Sequence[Amount], options: Options
) -> list[Merge]:
    """Number the blocks of each stream, and give each its margin and closed form."""
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


def _thick_enough(merges: Sequence[Merge], options: Options) -> tuple[list[Merge], dict[Site, str]]:
    """Drop merges that would act on too few tokens."""
    refusals: dict[Site, str] = {}
    kept = []
    for merge, (before, after) in zip(merges, token_counts(merges, options), strict=True):
        if isinstance(before, int) and before < options.min_tokens:
            refusals[merge.block.site] = (
                f"too few tokens: {before}, and min_tokens is {options.min_tokens}"
            )
        elif isinstance(before, int) and merge.block.front + merge.block.back >= before - 1:
            refusals[merge.block.site] = (
                f"all of its {before} tokens are protected (the first {merge.block.front} and "
                f"the last {merge.block.back})"
            )
        elif isinstance(before, int) and before == after:
            refusals[merge.block.site] = (
                f"too few tokens: the amount asked for removes none of {before}"
            )
        else:
            kept.append(merge)
    return kept, refusals


def token_counts(merges: Iterable[Merge], options: Options) -> list[tuple[Size, Size]]:
    """Token counts before and after each merge."""
    now: dict[Axis, Size] = {}
    result = []
    for merge in merges:
        block = merge.block
        before = now.get(block.axis, block.axis.size)
        protected = block.front + block.back
        k = merge.amount.removed(
            before - protected, block.axis.size - protected, bool(block.padding)
        )
        if isinstance(before, int) and (before < options.min_tokens or before - protected < 2):
            k = 0
        now[block.axis] = before - k
        result.append((before, now[block.axis]))
    return result


def _solve(
    model: CostModel, detection: Detection, options: Options, target: float
) -> tuple[int, str]:
    """The largest ratio numerator p within the target; a note if even the lowest is not."""
    blocks = model.blocks
    if not blocks:
        return Q, ""

    def fraction(p: int) -> float:
        amounts = [Amount(p=p)] * len(blocks)
        merges = _numbered(detection, blocks, amounts, options)
        overheads = [merge_overhead(block, p / Q) for block in blocks]
        return model.fraction(token_counts(merges, options), overheads)

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
