"""Plan: which blocks merge, and how much each removes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from torch.fx import Node

from pitome_fx.algorithms import ALGORITHMS
from pitome_fx.errors import OptionsError
from pitome_fx.options import Options
from pitome_fx.passes.capture.program import Program
from pitome_fx.passes.detect.detection import Block, Detection
from pitome_fx.passes.detect.sites import Site
from pitome_fx.passes.plan.amount import Amount, Number, Q, Share, at_least, chained
from pitome_fx.passes.plan.cost import CostModel
from pitome_fx.passes.plan.solve import solve
from pitome_fx.passes.plan.timed import Seconds, solve_for_time
from pitome_fx.passes.tokens.axes import Axis
from pitome_fx.passes.tokens.sizes import Size, hint


@dataclass(frozen=True)
class PlannedMerge:
    """One planned merge.

    Attributes:
        amount: how many of the unprotected tokens go.
        index, total: it is block i (from 0) of the L of its stream.
        spare: 1 where padding is told from other tokens, else 0. Pairs of either kind must
            suffice then, and an odd token of each may be left over.
    """

    block: Block
    amount: Amount
    index: int
    total: int
    spare: int

    def counts(self, tokens: Size) -> tuple[Size, Size]:
        """Token counts before and after it, of ``tokens`` that the stream begins with."""
        alone = self._alone
        before, after = self.amount.counts(at_least(tokens - alone, 0))
        return before + alone, after + alone

    def loose(self, tokens: int) -> int:
        """How many of some tokens may be paired."""
        return tokens - self._alone

    def decide(self) -> None:
        """Guard a symbolic token count so that its closed form is a plain one."""
        self.amount.decide(at_least(self.block.axis.size - self._alone, 0))

    @property
    def _alone(self) -> int:
        return self.block.front + self.block.back + self.spare


UNROUNDED = "round_to={}: token counts that are symbols are left as they are"


@dataclass(frozen=True)
class Plan:
    """What to merge.

    Attributes:
        merges: by merge point, in graph order.
        refusals: every site that does not merge, with the reason.
        note: what the user should know about it, '' if nothing.
        seconds: what a call is expected to take, where the target is one of time.
    """

    merges: tuple[PlannedMerge, ...]
    refusals: dict[Site, str]
    note: str = ""
    seconds: Seconds | None = None

    def without(self, merges: Iterable[PlannedMerge], reason: str) -> Plan:
        """The plan with some merges refused, all for one reason."""
        return self.refusing({merge.block.site: reason for merge in merges})

    def refusing(self, refusals: Mapping[Site, str]) -> Plan:
        """The plan without the merges of some sites, each for a reason of its own."""
        kept = tuple(merge for merge in self.merges if merge.block.site not in refusals)
        return replace(self, merges=kept, refusals={**self.refusals, **refusals})


def make_plan(program: Program, detection: Detection, options: Options) -> Plan:
    """Decide the amount of every block.

    Args:
        options: with all defaults resolved.

    Raises:
        OptionsError: the schedule has another length than the model has mergeable blocks.
    """
    blocks, refusals = allowed(detection, options)
    costs = CostModel(program, detection.labels, blocks)
    note, seconds = "", None
    amounts: Sequence[Amount]
    if options.is_timed:
        timed = solve_for_time(program, detection.labels, blocks, options)
        amounts, note, seconds = [Share(p) for p in timed.ratios], timed.note, timed.seconds
        refusals |= {blocks[i].site: reason for i, reason in timed.refusals.items()}
    elif options.flops is not None:
        ratio, note = solve(costs, program, options)
        amounts = [Share(ratio)] * len(blocks)
    else:
        amounts = _given_amounts(blocks, options)
    merges = []
    for i, merge in enumerate(_numbered(detection, blocks, amounts)):
        if merge.block.site in refusals:
            continue
        if costs.runs_after(i):
            merges.append(merge)
        else:
            refusals[merge.block.site] = (
                "not profitable: every costly op after this block needs all tokens again"
            )
    kept, thin = _thick_enough(merges, options, program.recompiles)
    if options.round_to > 1 and any(not isinstance(m.block.axis.size, int) for m in kept):
        note += ("; " if note else "") + UNROUNDED.format(options.round_to)
    return Plan(tuple(kept), {**detection.refusals, **refusals, **thin}, note, seconds)


def allowed(detection: Detection, options: Options) -> tuple[list[Block], dict[Site, str]]:
    """Blocks that the options let merge, one for every merge point; and why others may not."""
    refusals: dict[Site, str] = {}
    blocks: list[Block] = []
    usual = _usual(detection, options)
    for block in first_per_point(detection.blocks):
        if options.blocks is not None and block.site.number not in options.blocks:
            refusals[block.site] = "excluded by the option blocks"
        elif usual is not None and block not in usual:
            refusals[block.site] = (
                f"not among the blocks in which {options.algorithm!r} merges unless the option "
                "blocks says so"
            )
        elif not options.proportional and not block.site.softmaxes:
            refusals[block.site] = (
                "proportional=False counts each group of keys once in a softmax, and no softmax "
                "alone weighs these keys; leave proportional=True"
            )
        else:
            blocks.append(block)
    return blocks, refusals


def _usual(detection: Detection, options: Options) -> list[Block] | None:
    """The blocks in which the algorithm merges by itself, None for all or where the user says."""
    where = ALGORITHMS[options.algorithm].blocks
    if where is None or options.blocks is not None:
        return None
    streams = by_stream(detection).values()
    return [stream[i] for stream in streams for i in where(len(stream)) if i < len(stream)]


def first_per_point(blocks: Iterable[Block]) -> list[Block]:
    """Parallel attentions share one residual add, and so one merge: the first one's."""
    seen: dict[Node, Block] = {}
    for block in blocks:
        seen.setdefault(block.point, block)
    return list(seen.values())


def _given_amounts(blocks: Sequence[Block], options: Options) -> Sequence[Amount]:
    if options.r is not None:
        to_one = ALGORITHMS[options.algorithm].removes == "all but one"
        return [Number(options.r, to_one=to_one)] * len(blocks)
    if options.ratio is not None:
        return [Share(_numerator(options.ratio))] * len(blocks)
    if not blocks:
        return []
    assert options.schedule is not None
    if len(options.schedule) != len(blocks):
        raise OptionsError(
            f"schedule={list(options.schedule)!r} has {len(options.schedule)} values, but "
            f"{len(blocks)} blocks of this model may merge; give one value for each."
        )
    return [Share(_numerator(value)) for value in options.schedule[: len(blocks)]]


def _numerator(ratio: float) -> int:
    return round(Fraction(ratio) * Q)


def _numbered(
    detection: Detection, blocks: Sequence[Block], amounts: Sequence[Amount]
) -> list[PlannedMerge]:
    """Number the blocks of each stream, and give each its place in the chain."""
    streams = by_stream(detection)
    padded = {block.axis for block in blocks if block.padding}
    merges = []
    chain = chained((block.axis, amount) for block, amount in zip(blocks, amounts, strict=True))
    for block, amount in zip(blocks, chain, strict=True):
        stream = streams[block.axis]
        index, is_padded = stream.index(block), block.axis in padded
        merges.append(PlannedMerge(block, amount, index, len(stream), is_padded))
    return merges


def by_stream(detection: Detection) -> dict[Axis, list[Block]]:
    """The blocks of each stream of tokens, whether they merge or not."""
    streams: dict[Axis, list[Block]] = {}
    for block in first_per_point(detection.blocks):
        streams.setdefault(block.axis, []).append(block)
    return streams


def _thick_enough(
    merges: Sequence[PlannedMerge], options: Options, recompiles: bool
) -> tuple[list[PlannedMerge], dict[Site, str]]:
    """Drop merges that would act on too few tokens.

    Args:
        recompiles: sizes that decide otherwise are compiled anew, so that a symbolic count may be
            decided on. Else it is taken to be large enough.
    """
    refusals: dict[Site, str] = {}
    kept = []
    now: dict[Axis, Size] = {}
    for merge in merges:
        block = merge.block
        if not isinstance(block.axis.size, int):
            if not recompiles:
                kept.append(merge)
                continue
            merge.decide()
        before, after = merge.counts(block.axis.size)
        before = now.get(block.axis, before)
        reason = _too_thin(merge, before, after, options)
        if reason:
            refusals[block.site] = reason
        else:
            kept.append(merge)
        now[block.axis] = before if reason else after
    return kept, refusals


def _too_thin(merge: PlannedMerge, before: Size, after: Size, options: Options) -> str:
    """Why there are too few tokens for a merge, '' if there are enough."""
    block = merge.block
    if before < options.min_tokens:
        return f"too few tokens: {hint(before)}, and min_tokens is {options.min_tokens}"
    if not isinstance(before, int):
        # A merge that removes none of them is right too, and leaves one guard less.
        return ""
    if block.front + block.back >= before - 1:
        return (
            f"all of its {before} tokens are protected (the first {block.front} and "
            f"the last {block.back})"
        )
    if before == after:
        return f"too few tokens: the amount asked for removes none of {before}"
    return ""
