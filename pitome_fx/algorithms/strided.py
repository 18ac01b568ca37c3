"""Strided averages: neighbours in the sequence merge, whatever they are."""

import torch

from pitome_fx.algorithms.common import alternate, facing_edges
from pitome_fx.algorithms.registry import Match, Tokens, register
from pitome_fx.algorithms.tome import alternate


@register("strided")
def strided(tokens: Tokens) -> Match:
    """k pairs of neighbours merge, spread evenly over the sequence."""
    order = alternate(tokens)
    pair = torch.arange(alternate(order)[0].shape[1], device=order.device)
    # Bits of the place turned around: 0, n/2, n/4, 3n/4 …
    powers = 2 ** torch.arange(16, device=order.device)
    turned = ((pair.unsqueeze(1) // powers) % 2 / (2.0 * powers)).sum(1)
    return facing_edges(order, -turned.unsqueeze(0), tokens)
