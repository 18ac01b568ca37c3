"""Spends a budget, of FLOPs or of time, on the blocks in which it changes the outputs least."""

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
    cost: Callable[[Sequence[float]], float],
    target: float,
    lowest: float,
) -> tuple[float, ...]:
    """Keep ratios of all blocks within the target, with the least sum of changes.

    Greedy: again and again the block that saves most for its change removes more.

    Args:
        cost: of the model, as a fraction of the dense one's, for the keep ratios of all blocks.
        lowest: keep ratio of a block.
    """
    ratios = [1.0] * len(sensitivities)
    now = cost(ratios)
    while now > target:
        offers = [
            offer
            for i, own in enumerate(sensitivities)
            if (offer := _offer(i, own, ratios, cost, now, lowest)) is not None
        ]
        if not offers:
            break
        best = min(offers, key=lambda offer: offer.price)
        ratios[best.block], now = best.ratio, best.cost
    return tuple(ratios)


@dataclass(frozen=True)
class _Offer:
    """A block that removes more: the change for what is saved, its ratio, the cost that is left."""

    price: float
    block: int
    ratio: float
    cost: float


def _offer(
    block: int,
    own: Sensitivity,
    ratios: Sequence[float],
    cost: Callable[[Sequence[float]], float],
    now: float,
    lowest: float,
) -> _Offer | None:
    """The next ratio of a block that saves anything: matching takes time whatever it removes."""
    less = ratios[block]
    while (less := round(less - STEP, 6)) >= lowest:
        left = cost([*ratios[:block], less, *ratios[block + 1 :]])
        if left < now:
            change = own.change(1 - less) - own.change(1 - ratios[block])
            return _Offer(change / (now - left), block, less, left)
    return None
