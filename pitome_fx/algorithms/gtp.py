"""GTP-ViT, graph-based token propagation (Xu et al., WACV 2024, arXiv 2311.03035)."""

import torch
from torch import Tensor

from pitome_fx.algorithms.common import (
    cosines,
    every_cosine,
    importance_of,
    keep_highest,
    nearest,
    rank,
    unit,
)
from pitome_fx.algorithms.parameters import Count, Weight
from pitome_fx.algorithms.registry import Match, Tokens, Weights, register


def propagation(tokens: Tokens, match: Match, *, alpha: float, neighbours: int) -> Weights:
    """x_kept + α·G·x_moved, with G = D^-1/2·A·D^-1/2 of the graph of each token's nearest ones."""
    graph = _graph(tokens, neighbours)
    degree = 1 / graph.sum(-1).clamp(min=1e-12).sqrt()
    graph = graph * degree.unsqueeze(1) * degree.unsqueeze(2)
    rows = graph.gather(1, match.kept.unsqueeze(-1).expand(-1, -1, graph.shape[-1]))
    width = match.kept.shape[1]
    mix = alpha * rows.gather(2, match.moved.unsqueeze(1).expand(-1, width, -1))
    return Weights(tokens.metric.new_ones(match.kept.shape), mix)


def _graph(tokens: Tokens, neighbours: int) -> Tensor:
    """Symmetric cosines (B, T, T) of each token to its most similar ones, 0 to all others."""
    cos = every_cosine(unit(tokens.metric), tokens.padding)
    near = (rank(cos, descending=True) < neighbours) & (cos > 0)
    return torch.where(near | near.transpose(1, 2), cos, 0.0)


@register("gtp", needs=["importance"], weights=propagation, scores=importance_of)
def gtp(tokens: Tokens, *, alpha: Weight = 0.2, neighbours: Count = 8) -> Match:
    """The least important tokens go; what they hold spreads to their neighbours in the graph.

    The graph is built anew of the tokens that each block has, not carried from the first.
    """
    assert tokens.importance is not None
    kept, moved = keep_highest(tokens.importance, tokens)
    return Match(kept, moved, nearest(cosines(unit(tokens.metric), moved, kept, tokens.padding)))
