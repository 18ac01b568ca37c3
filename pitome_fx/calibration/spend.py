"""Spends a FLOPs budget on the blocks in which it changes the outputs least."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

STEP = 0.02
"""Keep ratios of a schedule are multiples of it."""


@dataclass(frozen=True)
class Sensitivity:
    """How far outputs move as one block alone removes a share of its tokens: scale · share^power.

    Fitted to the changes at two shares.
    """

    scale: float
    power: float

    @classmethod
    def fit(cls, small: tuple[float, float], large: tuple[float, float]) -> Sensitivity:
        """From (share, change) at a smaller and a larger share."""
        (x, a), (y, b) = small, large
        a, b = max(a, 1e-12), max(b, 1e-12)
        # Removing more never costs less, and nothing is as steep as two points may suggest.
        power = min(max(math.log(b / a) / math.log(y / x), 0.5), 6.0)
        return cls(b / y**power, power)

    def change(self, share: float) -> float:
        """Of the outputs, squared and relative."""
        return self.scale * share**self.power if share > 0 else 0.0


def spend(
    sensitivities: Sequence[Sensitivity],
    flops: Callable[[Sequence[float]], float],
    target: float,
    lowest: float,
) -> tuple[float, ...]:
    """Keep ratios of all blocks within the target, with the least sum of changes.

    Greedy: again and again the block that saves the most FLOPs for its change removes more.

    Args:
        flops: of the model, as a fraction of the dense one's, for the keep ratios of all blocks.
        lowest: keep ratio of a block.
    """
    ratios = [1.0] * len(sensitivities)
    now = flops(ratios)
    while now > target:
        best: tuple[float, int, float] | None = None
        for i, own in enumerate(sensitivities):
            less = round(ratios[i] - STEP, 6)
            if less < lowest:
                continue
            left = flops([*ratios[:i], less, *ratios[i + 1 :]])
            saved = now - left
            price = own.change(1 - less) - own.change(1 - ratios[i])
            if saved > 0 and (best is None or price / saved < best[0]):
                best = (price / saved, i, less)
        if best is None:
            break
        ratios[best[1]] = best[2]
        now = flops(ratios)
    return tuple(ratios)
