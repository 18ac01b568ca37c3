"""PiToMe (Tran et al., NeurIPS 2024, arXiv 2405.16148), as in the paper."""

import torch
from torch import Tensor

from pitome_fx.algorithms.common import (
    falling_margin,
    of_units,
    ordered_split,
    total_energy,
    unit,
)
from pitome_fx.algorithms.parameters import Margin, Weight
from pitome_fx.algorithms.registry import Match, Tokens, register


def energy(units: Tensor, tokens: Tokens, margin: float, alpha: float) -> Tensor:
    """Eq. 4 (B, T): cosines above the margin count fully, the others as α·(exp(cos − m) − 1)."""
    m = falling_margin(tokens, margin)
    cos = units @ units.transpose(1, 2)
    similar = torch.where(cos >= m, cos, alpha * torch.expm1(cos - m))
    return total_energy(similar, tokens.padding)


@register("pitome", scores=of_units(energy))
def pitome(tokens: Tokens, *, margin: Margin = 0.9, alpha: Weight = 1.0) -> Match:
    """The energy of Eq. 4 and the ordered split of Algorithm 1."""
    units = unit(tokens.metric)
    return ordered_split(energy(units, tokens, margin, alpha), units, tokens)
