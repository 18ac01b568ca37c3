"""PiToMe with the mean cosine for an energy: no (T, T) cosines, the k best edges merge."""

from pitome_fx.algorithms.common import mean_cosine, unit
from pitome_fx.algorithms.pitome_bsm import best_edges_by
from pitome_fx.algorithms.registry import Match, Tokens, register


@register("pitome-mean", metric="hidden")
def pitome_mean(tokens: Tokens) -> Match:
    """E_i = u_i · (Σ_j u_j)/T of unit vectors u orders the tokens, in O(T·D); then ToMe's edges.

    Neighbours in that order are equally central, so that those of one cluster come to lie on both
    sides of the alternate split wherever they are in the sequence.
    """
    units = unit(tokens.metric)
    return best_edges_by(mean_cosine(units, tokens.padding), units, tokens)
