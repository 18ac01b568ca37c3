"""PiToMe (Tran et al., NeurIPS 2024, arXiv 2405.16148), as in the paper."""

import torch

from pitome_fx.algorithms.common import falling_margin, ordered_split, total_energy, unit
from pitome_fx.algorithms.parameters import Margin, Weight
from pitome_fx.algorithms.registry import Match, Tokens, register


@register("pitome")
def pitome(tokens: Tokens, *, margin: Margin = 0.9, alpha: Weight = 1.0) -> Match:
    """Energy of Eq. 4: cosines above the margin count fully, the others as α·(exp(cos − m) − 1)."""
    units, m = unit(tokens.metric), falling_margin(tokens, margin)
    cos = units @ units.transpose(1, 2)
    similar = torch.where(cos >= m, cos, alpha * torch.expm1(cos - m))
    return ordered_split(total_energy(similar, tokens.padding), units, tokens)
