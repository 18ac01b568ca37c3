"""Strided averages: neighbours in the sequence merge, whatever they are."""

import torch

from pitome_fx.algorithms.common import every_other, facing_edges
from pitome_fx.algorithms.registry import Match, Tokens, register
from pitome_fx.algorithms.tome import as_they_come


@register("strided")
def strided(tokens: Tokens) -> Match:
    """k pairs of neighbours merge, spread evenly over the sequence."""
    sides = every_other(as_they_come(tokens))
    pair = torch.arange(sides[0].shape[1], device=sides[0].device)
    # Bits of the place turned around: 0, n/2, n/4, 3n/4 …
    powers = 2 ** torch.arange(16, device=pair.device)
    turned = ((pair.unsqueeze(1) // powers) % 2 / (2.0 * powers)).sum(1)
    return facing_edges(sides, -turned.unsqueeze(0), tokens)
