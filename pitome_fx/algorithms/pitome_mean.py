"""PiToMe with the mean cosine for an energy: no (T, T) cosines, the k best edges merge."""

from torch import Tensor

from pitome_fx.algorithms.common import mean_cosine, of_units, unit
from pitome_fx.algorithms.pitome_bsm import best_edges_by
from pitome_fx.algorithms.registry import Match, Tokens, register


def mean_energy(units: Tensor, tokens: Tokens) -> Tensor:
    """E_i = u_i · (Σ_j u_j)/T of unit vectors u, (B, T), in O(T·D)."""
    return mean_cosine(units, tokens.padding)


@register("pitome-mean", metric="hidden", scores=of_units(mean_energy))
def pitome_mean(tokens: Tokens) -> Match:
    """The mean cosine to all tokens orders them; then ToMe's edges.

    Neighbours in that order are equally central, so that those of one cluster come to lie on both
    sides of the alternate split wherever they are in the sequence.
    """
    units = unit(tokens.metric)
    return best_edges_by(mean_energy(units, tokens), units, tokens)
