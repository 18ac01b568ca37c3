"""What a plan would take in seconds, from a table measured on the device of the program."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from pitome_fx.options import Options
from pitome_fx.passes.capture.program import Program
from pitome_fx.passes.detect.detection import Block
from pitome_fx.passes.plan.cost import SizeOf
from pitome_fx.passes.plan.described import REMOVED, SHARES, Ops
from pitome_fx.passes.plan.table import DeviceTable
from pitome_fx.passes.replay.labels import Labels
from pitome_fx.passes.tokens.sizes import hint


@dataclass(frozen=True)
class Curve:
    """Seconds of something by the share of tokens that it runs on.

    Attributes:
        dense: on all tokens, where nothing is merged.
        merged: on merged tokens, at ``SHARES``.
    """

    dense: float
    merged: tuple[float, ...]

    def __add__(self, other: Curve) -> Curve:
        both = zip(self.merged, other.merged, strict=True)
        return Curve(self.dense + other.dense, tuple(a + b for a, b in both))

    def at(self, share: float) -> float:
        """Linear between two points that were measured, and on from the last two."""
        return self.dense if share == 1 else between(SHARES, self.merged, share)


NOTHING = Curve(0.0, (0.0,) * len(SHARES))


def between(places: Sequence[float], values: Sequence[float], place: float) -> float:
    """Linear interpolation, and extrapolation down to zero."""
    i = min(max(bisect_left(places, place), 1), len(places) - 1)
    slope = (values[i] - values[i - 1]) / (places[i] - places[i - 1])
    return max(0.0, values[i - 1] + slope * (place - places[i - 1]))


class TimeModel:
    """Seconds of a program as a function of the token counts after each of its merges.

    The same to the planner as ``CostModel``: ``fraction`` is of seconds instead of FLOPs.

    Args:
        options: with all defaults resolved; what matching costs is the algorithm's.
        table: of the program's device; what it lacks is measured here.
        size_of: what a symbolic size is taken for.
    """

    def __init__(
        self,
        program: Program,
        labels: Labels,
        blocks: Sequence[Block],
        options: Options,
        table: DeviceTable,
        size_of: SizeOf = hint,
    ) -> None:
        self.blocks = list(blocks)
        self.size_of = size_of
        ops = Ops(program, labels, self.blocks, options, size_of)
        table.measure(ops.calls)
        seconds = table.seconds
        self.fixed = sum(seconds[key] or 0.0 for key in ops.fixed)
        self.curves = [NOTHING] * len(self.blocks)
        for merge, dense, merged in ops.on_tokens:
            whole = seconds[dense] or 0.0
            points = [seconds[key] for key in merged]
            known = [
                whole * share if point is None else point
                for share, point in zip(SHARES, points, strict=True)
            ]
            self.curves[merge] += Curve(whole, tuple(known))
        self.matching = [
            [[seconds[key] or 0.0 for key in row] for row in rows] for rows in ops.matching
        ]
        self.dense = self.fixed + sum(curve.dense for curve in self.curves)

    def fraction(
        self, shares: Sequence[tuple[float, float]], keep: Sequence[float], options: Options
    ) -> float:
        """Seconds left, as a fraction of the dense program's; arguments as of ``CostModel``."""
        total = self.fixed
        for curve, rows, (before, after), ratio in zip(
            self.curves, self.matching, shares, keep, strict=True
        ):
            total += curve.at(after)
            if ratio < 1:
                by_removed = [between(SHARES, row, before) for row in rows]
                total += between(REMOVED, by_removed, 1 - ratio)
        return total / self.dense if self.dense else 1.0
