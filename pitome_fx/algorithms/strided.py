"""Strided averages: neighbours in the sequence merge, whatever they are."""

import torch

from pitome_fx.algorithms.common import best_edges, within_kinds
from pitome_fx.algorithms.registry import Match, Tokens, register
from pitome_fx.algorithms.tome import alternate


@register("strided")
def strided(tokens: Tokens) -> Match:
    """k pairs of neighbours merge, spread evenly over the sequence."""
    order = alternate(tokens)
    a, b = order[:, 0::2], order[:, 1::2]
    place = torch.arange(a.shape[1], device=a.device)
    # Bits of the place turned around: 0, n/2, n/4, 3n/4 …
    powers = 2 ** torch.arange(16, device=a.device)
    turned = ((place.unsqueeze(1) // powers) % 2 / (2.0 * powers)).sum(1)
    facing = place.unsqueeze(1) == torch.arange(b.shape[1], device=a.device)
    scores = torch.where(facing, -turned.unsqueeze(1), -torch.inf).to(tokens.metric.dtype)
    scores = within_kinds(scores.expand(a.shape[0], -1, -1), a, b, tokens.padding)
    return best_edges(order, scores, tokens)
