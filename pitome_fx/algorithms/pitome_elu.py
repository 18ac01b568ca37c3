"""PiToMe with the continuous energy of the released vision models."""

from torch import Tensor
from torch.nn.functional import elu

from pitome_fx.algorithms.common import (
    falling_margin,
    of_units,
    ordered_split,
    total_energy,
    unit,
)
from pitome_fx.algorithms.parameters import Margin, Weight
from pitome_fx.algorithms.registry import Match, Tokens, register


def elu_energy(units: Tensor, tokens: Tokens, margin: float, alpha: float) -> Tensor:
    """Energy (B, T) ELU(cos − m), averaged: like Eq. 4 but without its jump at the margin."""
    cos = units @ units.transpose(1, 2)
    return total_energy(elu(cos - falling_margin(tokens, margin), alpha), tokens.padding)


@register("pitome-elu", scores=of_units(elu_energy))
def pitome_elu(tokens: Tokens, *, margin: Margin = 0.9, alpha: Weight = 1.0) -> Match:
    """The smooth energy, and the paper's split of the 2k tokens that have most of it."""
    units = unit(tokens.metric)
    return ordered_split(elu_energy(units, tokens, margin, alpha), units, tokens)
