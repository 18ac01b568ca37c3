"""Random pairs: the baseline that every algorithm must beat."""

import torch

from pitome_fx.algorithms.common import every_other, facing_edges, merge_order
from pitome_fx.algorithms.registry import Match, Tokens, register


@register("random")
def random(tokens: Tokens, *, seed: int = 0) -> Match:
    """Pairs drawn by a hash of place, block and seed: the same for every item and every run."""
    place = torch.arange(tokens.metric.shape[1], device=tokens.metric.device)
    drawn = place.to(torch.float64) * 12.9898 + tokens.block * 78.233 + seed * 37.719
    noise = torch.sin(drawn) * 43758.5453
    noise = (noise - noise.floor()).expand(tokens.metric.shape[:2])
    sides = every_other(merge_order(noise, tokens.padding))
    return facing_edges(sides, noise.gather(1, sides[0]), tokens)
