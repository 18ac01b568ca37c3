"""CrossGET's complete-graph soft matching (Shi et al., ICML 2024, arXiv 2305.17455)."""

import torch
from torch import Tensor

from pitome_fx.algorithms.common import (
    cosines,
    every_cosine,
    highest,
    keep_highest,
    nearest,
    of_units,
    rank,
    unit,
)
from pitome_fx.algorithms.registry import Match, Tokens, register


def best_edge(units: Tensor, tokens: Tokens) -> Tensor:
    """The highest cosine (B, T) of each token to one of lower rank; −∞ where there is none.

    Tokens rank by their highest cosine to any other. An edge leads from a token to one of lower
    rank only, so that of two tokens most similar to each other one stays.
    """
    cos = every_cosine(units, tokens.padding)
    best = highest(cos, -torch.inf)
    place = rank(best, descending=True)
    lower = place.unsqueeze(2) < place.unsqueeze(1)
    return highest(cos.masked_fill(~lower, -torch.inf), -torch.inf)


@register("crossget", scores=of_units(best_edge))
def crossget(tokens: Tokens) -> Match:
    """No split: the k tokens of best edges join the nearest of those that stay."""
    units = unit(tokens.metric)
    kept, moved = keep_highest(-best_edge(units, tokens), tokens)
    return Match(kept, moved, nearest(cosines(units, moved, kept, tokens.padding)))
