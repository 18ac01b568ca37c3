"""PiToMe with bipartite soft matching, as released for vision: energies order, best edges merge."""

from torch import Tensor

from pitome_fx.algorithms.common import (
    best_edges,
    cosines,
    every_other,
    merge_order,
    of_units,
    unit,
)
from pitome_fx.algorithms.parameters import Margin, Weight
from pitome_fx.algorithms.pitome_elu import elu_energy
from pitome_fx.algorithms.registry import Match, Tokens, register


def best_edges_by(energy: Tensor, units: Tensor, tokens: Tokens) -> Match:
    """Tokens in order of their energy are split alternately; the k most similar pairs merge."""
    sides = every_other(merge_order(energy, tokens.padding))
    scores = cosines(units, *sides, tokens.padding)
    return best_edges(sides, scores, tokens)


@register("pitome-bsm", scores=of_units(elu_energy))
def pitome_bsm(tokens: Tokens, *, margin: Margin = 0.75, alpha: Weight = 1.0) -> Match:
    """All tokens are ordered by the smooth energy; none has to merge but the k best pairs."""
    units = unit(tokens.metric)
    return best_edges_by(elu_energy(units, tokens, margin, alpha), units, tokens)
