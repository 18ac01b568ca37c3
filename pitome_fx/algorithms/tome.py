"""ToMe, bipartite soft matching (Bolya et al., ICLR 2023, arXiv 2210.09461)."""

import torch
from torch import Tensor

from pitome_fx.algorithms.common import best_edges, cosines, every_other, merge_order, unit
from pitome_fx.algorithms.registry import Match, Tokens, register


def as_they_come(tokens: Tokens) -> Tensor:
    """The tokens (B, T) as they come, padding first."""
    return merge_order(torch.zeros_like(tokens.metric[..., 0]), tokens.padding)


@register("tome")
def tome(tokens: Tokens) -> Match:
    """Tokens at even positions each propose their most similar odd one; the k best edges merge."""
    sides = every_other(as_they_come(tokens))
    scores = cosines(unit(tokens.metric), *sides, tokens.padding)
    return best_edges(sides, scores, tokens)
