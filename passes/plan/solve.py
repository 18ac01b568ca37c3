"""Solving for a target, of FLOPs or of time: the keep ratio that all blocks share.

The ratio depends on the token count, though little: attention falls faster than linear layers do.
So that one compile serves many lengths and each gets the ratio that it would get alone, ratios
come in steps worth less than a hundredth of the FLOPs, and where sizes are symbolic they are
guarded to the range in which the step is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from pitome_fx.algorithms import ALGORITHMS
from pitome_fx.options import Options
from pitome_fx.passes.capture.program import Program
from pitome_fx.passes.detect.detection import Block
from pitome_fx.passes.plan.amount import Q, Share, chained
from pitome_fx.passes.plan.cost import CostModel, SizeOf
from pitome_fx.passes.replay.labels import Labels
from pitome_fx.passes.tokens.sizes import Size, hint

STEPS = 50
"""Ratios of a stream of L blocks are multiples of 1/(STEPS·L): the FLOPs follow ratio^L."""

FAR = 64
"""How many times larger than the present ones sizes are looked at."""


class Costs(Protocol):
    """What a plan would cost: ``CostModel`` in FLOPs, ``TimeModel`` in seconds."""

    @property
    def blocks(self) -> list[Block]:
        """That may merge."""

    @property
    def size_of(self) -> SizeOf:
        """What a symbolic size is taken for."""

    def fraction(
        self, shares: Sequence[tuple[float, float]], keep: Sequence[float], options: Options
    ) -> float:
        """What is left of the dense program's cost."""


def solve(costs: CostModel, program: Program, options: Options) -> tuple[int, str]:
    """The largest keep ratio p/q within ``options.flops``; a note if even the lowest is not.

    Where the caller compiles anew for other sizes, symbolic token counts are guarded to those for
    which the answer is the same.
    """
    target = options.flops
    assert target is not None
    if not costs.blocks:
        return Q, ""
    p = largest(costs, options, target)
    if program.recompiles:
        _guard(costs, program, lambda other: largest(other, options, target) == p)
    if p > 0:
        return p, ""
    lowest = ALGORITHMS[options.algorithm].lowest_ratio
    p = round(lowest * Q)
    return p, (
        f"flops={target} is out of reach: even a keep ratio of {lowest} in every block "
        f"leaves {_fraction(costs, options, p):.3f} of the FLOPs"
    )


def largest(
    costs: Costs, options: Options, target: float, among: Collection[int] | None = None
) -> int:
    """The numerator of the largest keep ratio within the target, 0 if there is none.

    Args:
        target: the fraction of the dense program's cost that may be left.
        among: the blocks that merge, None for all.
    """
    streams = [block.axis for block in costs.blocks]
    step = max(1, Q // (STEPS * max(streams.count(axis) for axis in streams)))
    lowest = ALGORITHMS[options.algorithm].lowest_ratio
    low, high = 0, round((1 - lowest) * Q) // step
    if _fraction(costs, options, Q - high * step, among) > target:
        return 0
    # The fewest steps below 1 that reach the target.
    while low < high:
        middle = (low + high) // 2
        if _fraction(costs, options, Q - middle * step, among) <= target:
            high = middle
        else:
            low = middle + 1
    return Q - high * step


def _fraction(
    costs: Costs, options: Options, p: int, among: Collection[int] | None = None
) -> float:
    """What is left if all blocks, or those ``among`` them, keep p/q."""
    return fraction_with(costs, options, uniform(costs, p, among))


def uniform(costs: Costs, p: int, among: Collection[int] | None) -> list[float]:
    """A keep ratio for each block: p/q for all, or for those ``among`` them."""
    return [p / Q if among is None or i in among else 1.0 for i in range(len(costs.blocks))]


def fraction_with(costs: Costs, options: Options, ratios: Sequence[float]) -> float:
    """What is left with a keep ratio for each block.

    Counts are not rounded, so that the ratio does not jump from one short length to the next.
    """
    amounts = (Share(round(ratio * Q)) for ratio in ratios)
    chain = chained((b.axis, a) for b, a in zip(costs.blocks, amounts, strict=True))
    shares = []
    for block, amount in zip(costs.blocks, chain, strict=True):
        assert isinstance(amount, Share)
        tokens = costs.size_of(block.axis.size)
        shares.append(_shares(block, amount, tokens, options.min_tokens))
    return costs.fraction(shares, ratios, options)


def flops_of_schedule(
    program: Program, labels: Labels, blocks: Sequence[Block], options: Options
) -> Callable[[Sequence[float]], float]:
    """The fraction of the FLOPs that is left, as a function of the keep ratios of the blocks.

    Args:
        options: with all defaults resolved.
    """
    costs = CostModel(program, labels, blocks)
    return lambda ratios: fraction_with(costs, options, ratios)


def _shares(block: Block, amount: Share, tokens: int, fewest: int) -> tuple[float, float]:
    alone = min(block.front + block.back, tokens)
    before, after = (
        (alone + (tokens - alone) * part / Q) / tokens for part in (amount.before, amount.after)
    )
    return before, before if before * tokens < fewest else after


def _guard(costs: CostModel, program: Program, same: Callable[[CostModel], bool]) -> None:
    """Guard the symbols of all token counts to a range around their present values.

    Between its ends the answer is taken to be the same as at both, as FLOPs are monotonic in the
    sizes. Several symbols (height and width of an image) are moved together.
    """
    env = program.fake_mode.shape_env
    symbols = _symbols(block.axis.size for block in costs.blocks)
    if env is None or not symbols:
        return
    largest = max(symbols.values())
    if not largest:
        return

    def moved(to: int) -> dict[Any, int]:
        """All symbols in proportion, the largest being ``to``."""
        return {symbol: max(1, value * to // largest) for symbol, value in symbols.items()}

    def agrees(to: int) -> bool:
        return same(costs.at(_with(moved(to))))

    low, high = moved(_first(1, largest, agrees)), moved(_last(largest, FAR * largest, agrees))
    for symbol, value in symbols.items():
        size = env.create_symintnode(symbol, hint=value)
        if low[symbol] > 1:
            _decide(size >= low[symbol])
        if high[symbol] < FAR * value:
            _decide(size <= high[symbol])


def _decide(holds: bool | torch.SymBool) -> None:
    """Record a guard."""
    assert bool(holds)


def _first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The lowest number of a range from which it holds up to ``high``, where it does."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return high


def _last(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The highest number of a range up to which it holds from ``low``, where it does."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _symbols(sizes: Any) -> dict[Any, int]:
    """The symbols in some sizes, with their present values."""
    found: dict[Any, int] = {}
    for size in sizes:
        if isinstance(size, torch.SymInt):
            env: ShapeEnv = size.node.shape_env
            for symbol in size.node.expr.free_symbols:
                found[symbol] = hint(env.create_symintnode(symbol, hint=None))
    return found


def _with(values: Mapping[Any, int]) -> SizeOf:
    """Sizes with some symbols replaced, the others at their present values."""

    def size_of(size: Size) -> int:
        if isinstance(size, int):
            return size
        expression = size.node.expr
        rest = _symbols([size])
        return int(expression.xreplace({s: values.get(s, v) for s, v in rest.items()}))

    return size_of
