"""PiToMe (Tran et al., NeurIPS 2024, arXiv 2405.16148), as in the paper."""

import torch
from torch import Tensor

from pitome_fx.algorithms.common import cosines, merge_order, nearest, total_energy, unit
from pitome_fx.algorithms.registry import Match, register


def falling_margin(margin: float, index: int, total: int) -> float:
    """m = margin − margin·i/L: deeper blocks count more tokens as similar (Eq. 4)."""
    return margin - margin * index / total


def ordered_split(energy: Tensor, units: Tensor, padding: Tensor | None, k: int) -> Match:
    """Merge k of the 2k tokens of highest energy into the other k.

    In order of decreasing energy the 1st, 3rd, 5th… each join the most similar one among the
    2nd, 4th, 6th…; all other tokens are protected.
    """
    order = merge_order(energy, padding)
    a, b, rest = order[:, 0 : 2 * k : 2], order[:, 1 : 2 * k : 2], order[:, 2 * k :]
    best = nearest(cosines(units, a, b, padding))
    return Match(torch.cat([rest, b], 1), a, rest.shape[1] + best)


@register("pitome", margin_at=falling_margin)
def pitome(
    metric: Tensor, size: Tensor, padding: Tensor | None, k: int, margin: float, alpha: float
) -> Match:
    """Energy of Eq. 4: cosines above the margin count fully, the others as α·(exp(cos − m) − 1)."""
    units = unit(metric)
    cos = units @ units.transpose(1, 2)
    similar = torch.where(cos >= margin, cos, alpha * torch.expm1(cos - margin))
    return ordered_split(total_energy(similar, padding), units, padding, k)
