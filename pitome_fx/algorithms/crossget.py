"""CrossGET's complete-graph soft matching (Shi et al., ICML 2024, arXiv 2305.17455)."""

import torch

from pitome_fx.algorithms.common import (
    cosines,
    every_cosine,
    highest,
    keep_highest,
    nearest,
    rank,
    unit,
)
from pitome_fx.algorithms.registry import Match, Tokens, register


@register("crossget")
def crossget(tokens: Tokens) -> Match:
    """No split: the k tokens most similar to one of lower rank join the nearest of those that stay.

    Tokens rank by their highest cosine to any other. An edge leads from a token to one of lower
    rank only, so that of two tokens most similar to each other one stays.
    """
    units = unit(tokens.metric)
    cos = every_cosine(units, tokens.padding)
    best = highest(cos, -torch.inf)
    place = rank(best, descending=True)
    lower = place.unsqueeze(2) < place.unsqueeze(1)
    edge = highest(cos.masked_fill(~lower, -torch.inf), -torch.inf)
    kept, moved = keep_highest(-edge, tokens)
    return Match(kept, moved, nearest(cosines(units, moved, kept, tokens.padding)))
